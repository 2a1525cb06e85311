"""The workbench as its user has it: keys and clicks through Textual's Pilot, a real flmaster behind it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("textual", reason="the optional extra ui is not installed")

from click.testing import CliRunner
from textual.pilot import Pilot
from textual.widgets import Button, Checkbox, DataTable, Input, OptionList, RichLog, Select, Static, TabbedContent

from fl_core.experiment.reading import read_experiments
from master.flctl import main
from master.flctl.stored_run import StoredRun
from master.workbench.analyse_pane import AnalysePane, Chart
from master.workbench.app import Workbench
from master.workbench.draft import Draft
from master.workbench.form_row import FormRow
from master.workbench.run_pane import RunPane

pytestmark = pytest.mark.timeout(90)
Open = Callable[..., Any]


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with quad.toml and the runs of it."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def bench(folder: Path) -> Open:
    """`async with bench("quad.toml", size=(140, 42)) as (app, pilot)`; a flmaster it started never outlives it."""

    @asynccontextmanager
    async def opened(file: str | None = "quad.toml", size: tuple[int, int] = (140, 42)) -> AsyncIterator[Any]:
        draft = Draft.new() if file is None else Draft.read(Path(file))
        app = Workbench(draft, Path("runs"))
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            try:
                yield app, pilot
            finally:
                if app.launched is not None:
                    app.launched.stop()
                    await app.launched.wait()

    return opened


async def page(pilot: Pilot[None], title: str) -> None:
    """The page of the form with that title."""
    pages = pilot.app.query_one("#sections", OptionList)
    pages.highlighted = pages.get_option_index(title)
    await pilot.pause()


async def eventually(pilot: Pilot[None], condition: Callable[[], Any], what: str) -> Any:
    """What `condition` gives once it is true of it."""
    for _ in range(600):
        if found := condition():
            return found
        await pilot.pause(0.1)  # between two looks
    pytest.fail(f"waited in vain for {what}")


def said(app: Workbench, selector: str) -> str:
    """The text of a static."""
    return str(app.query_one(selector, Static).content)


async def test_every_page_opens(bench: Open) -> None:
    """Each table of the schema has its form, and opening it changes nothing."""
    async with bench() as (app, pilot):
        pages = app.query_one("#sections", OptionList)
        for index in range(pages.option_count):
            await page(pilot, str(pages.get_option_at_index(index).id))
            assert app.query(FormRow)
        assert not app.configure.draft.is_changed
        assert said(app, "#verdict").startswith(" ✓ 4 runs")


async def test_typing_changes_draft_verdict_preview_and_command(bench: Open) -> None:
    """A number typed is everywhere at once; a wrong one is marked where it stands, and cannot be launched."""
    async with bench() as (app, pilot):
        await page(pilot, "local")
        await pilot.click("#edit-local-batch_size")
        await pilot.press(*"16")
        assert app.configure.draft.get("local.batch_size") == 16
        assert "batch_size = 16" in said(app, "#toml")
        assert said(app, "#command") == "$ flmaster --set local.batch_size=16 quad.toml"
        await pilot.press("backspace", "backspace", *"-1")
        assert "[local] batch_size: must be an integer of at least 1, not -1" in said(app, "#verdict")
        assert [row.field.path for row in app.query(FormRow) if row.has_class("wrong")] == ["local.batch_size"]
        assert app.query_one("#launch", Button).disabled
        await pilot.press("f5")
        await pilot.pause()
        assert app.launched is None
        await pilot.press("backspace", "backspace")
        assert not app.configure.draft.is_changed
        assert said(app, "#verdict").startswith(" ✓")


async def test_another_plug_in_brings_its_own_fields(bench: Open) -> None:
    """Choosing Rand-K asks for k; the checkboxes and lists write what they show."""
    async with bench() as (app, pilot):
        await page(pilot, "downlink")
        app.query_one("#edit-downlink-name", Select).value = "topk"
        await pilot.pause()
        assert app.query("#edit-downlink-k")
        assert "✗" in str(app.query_one("#sections", OptionList).get_option("downlink").prompt)
        await pilot.click("#edit-downlink-k")
        await pilot.press(*"50%")
        assert app.configure.draft.get("downlink") == {"name": "topk", "k": "50%"}
        await page(pilot, "model")
        await pilot.click("#edit-model-bias")
        assert app.configure.draft.get("model.bias") is True
        await page(pilot, "evaluate")
        app.query_one("#edit-evaluate-metrics").focus()
        await pilot.press("home", "space")
        assert app.configure.draft.get("evaluate.metrics") == ["grad_norm"]


async def test_an_option_of_a_default_plug_in_names_it(bench: Open) -> None:
    """[local] optimizer was left out: setting its momentum writes SGD and its lr, too."""
    async with bench(None) as (app, pilot):
        app.configure.draft.put("local.optimizer", None)
        await page(pilot, "local")
        await pilot.click("#edit-local-optimizer-momentum")
        await pilot.press(*"0.9")
        assert app.configure.draft.get("local.optimizer") == {"name": "sgd", "lr": 0.1, "momentum": 0.9}
        assert said(app, "#verdict").startswith(" ✓ 1 run")


async def test_saving_and_copying(bench: Open, folder: Path) -> None:
    """Ctrl-S writes the file that flmaster reads; Ctrl-Y copies the command that the screen shows."""
    async with bench(None) as (app, pilot):
        await page(pilot, "experiment")
        await pilot.click("#edit-rounds")
        await pilot.press("end", "backspace", "backspace", *"7")
        await pilot.press("ctrl+s")
        await pilot.pause()
        assert read_experiments(folder / "digits.toml")[0].rounds == 7
        await page(pilot, "launch")
        await pilot.click("#edit-launch-spawn")
        await pilot.press("2", "ctrl+y")
        await pilot.pause()
        assert app.copied == "flmaster --spawn 2 digits.toml"
        assert app.clipboard == app.copied


async def test_launch_watch_and_log(bench: Open, folder: Path) -> None:
    """F5 runs flmaster with the changes; the Run tab shows its rounds, the Log its lines, and the runs are there."""
    async with bench() as (app, pilot):
        app.configure.draft.put("rounds", 6)
        app.configure.draft.put("sweep", {"seed": [7]})
        app.configure.chosen |= {"devices": "cpu", "threads_per_device": "1"}
        await pilot.press("f5")
        launched = await eventually(pilot, lambda: app.launched, "the launch")
        assert app.query_one(TabbedContent).active == "run"
        watching = app.query_one(RunPane).watching
        assert watching is not None
        await eventually(pilot, lambda: any(run.ended for run in watching.state.runs.values()), "the end of the run")
        (run,) = watching.state.runs.values()
        assert run.finished_rounds == 6
        assert run.started.seed == 7
        assert await launched.wait() == 0
        await eventually(pilot, lambda: launched.is_told, "the last line of its output")
        await eventually(pilot, lambda: "finished" in said(app, "#process"), "the word that it ended")
        assert app.query_one("#stop", Button).disabled
        await pilot.press("f4")
        await pilot.pause()
        lines = [line.text for line in app.query_one("#output", RichLog).lines]
        assert lines[0].startswith("$ flmaster --devices cpu --threads-per-device 1 --set rounds=6 --set 'sweep=")
        assert any(line.startswith("round 6/6") for line in lines)
        assert lines[-1].strip() == "flmaster finished"
        assert StoredRun(Path(run.started.folder)).status == "finished"


async def asked_to_leave(app: Workbench, pilot: Pilot[None], seed: int) -> tuple[Any, Any]:
    """A long run is launched and has begun, and the question of ctrl+q stands: the launched flmaster, its watch."""
    app.configure.draft.put("rounds", 100_000)
    app.configure.draft.put("sweep", {"seed": [seed]})
    app.configure.chosen |= {"devices": "cpu", "threads_per_device": "1"}
    await pilot.press("f5")
    launched = await eventually(pilot, lambda: app.launched, "the launch")
    watching = app.query_one(RunPane).watching
    assert watching is not None
    await eventually(pilot, lambda: watching.state.runs, "the start of the run")
    await pilot.press("ctrl+q")
    await pilot.pause()
    return launched, watching


async def test_stop_saves_and_quitting_asks(bench: Open) -> None:
    """A flmaster that runs is not lost by a key: the question first, then it is stopped with everything saved."""
    async with bench() as (app, pilot):
        launched, watching = await asked_to_leave(app, pilot, seed=8)
        await pilot.click("#leaving #stay")
        await pilot.pause()
        assert launched.is_running
        await eventually(pilot, lambda: not app.query_one("#stop", Button).disabled, "the button")
        await pilot.click("#stop")
        assert await launched.wait() == 143
        (run,) = watching.state.runs.values()
        assert StoredRun(Path(run.started.folder)).status == "stopped"
        await eventually(pilot, lambda: "stopped and saved" in said(app, "#process"), "the word that it ended")
        await pilot.press("ctrl+q")
        await pilot.pause()
        assert not app.is_running


async def test_flmaster_outlives_a_workbench_that_is_told_so(bench: Open) -> None:
    """Leave it running: the workbench ends, the run goes on, and can still be stopped and saved."""
    async with bench() as (app, pilot):
        launched, watching = await asked_to_leave(app, pilot, seed=9)
        await pilot.click("#leaving #leave")
        await pilot.pause()
        assert not app.is_running
        (run,) = watching.state.runs.values()
        assert StoredRun(Path(run.started.folder)).status == "running"
        launched.stop()
        assert await launched.wait() == 143
        assert StoredRun(Path(run.started.folder)).status == "stopped"


async def test_runs_are_listed_marked_drawn_and_exported(bench: Open, folder: Path) -> None:
    """Space marks a run, its curve is drawn, and Export writes the figure of flctl plot with its numbers."""
    async with bench() as (app, pilot):
        await pilot.press("f3")
        await pilot.pause()
        pane, table = app.query_one(AnalysePane), app.query_one("#runs", DataTable)
        assert table.row_count == 4
        await pilot.press("space", "down", "space")
        assert len(pane.chosen) == 2
        await pilot.press("a")
        app.query_one("#y", Select).value = "grad_norm"
        app.query_one("#x", Select).value = "bits_up"
        await pilot.pause()
        app.query_one("#logy", Checkbox).value = True
        await pilot.pause()
        panel = app.query_one(Chart).panel
        assert panel is not None
        assert [curve.runs for curve in panel.curves] == [2, 2]
        assert pane.plot_command()[-7:] == ["-x", "bits_up", "-y", "grad_norm", "--logy", "-o", "figure.pdf"]
        await pilot.click("#export")
        await pilot.pause()
        assert (folder / "figure.pdf").read_bytes().startswith(b"%PDF")
        written = (folder / "figure.csv").read_text()
        (folder / "figure.csv").unlink()
        done = CliRunner().invoke(main, pane.plot_command()[1:], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert (folder / "figure.csv").read_text() == written
        await pilot.press("a")
        assert pane.chosen == []
        assert app.query_one(Chart).panel is None


async def test_a_condition_filters_and_a_wrong_one_is_marked(bench: Open) -> None:
    """The words of flctl runs --where, while they are typed."""
    async with bench() as (app, pilot):
        await pilot.press("f3")
        await pilot.pause()
        where = app.query_one("#where", Input)
        where.value = "seed=1 uplink.name=randk"
        await pilot.pause()
        assert [run.value("seed") for run in app.query_one(AnalysePane).runs] == [1]
        where.value = "sede=1"
        await pilot.pause()
        assert where.has_class("wrong")
        assert app.query_one("#runs", DataTable).row_count == 4


async def test_a_stored_run_is_watched_and_its_command_copied(bench: Open) -> None:
    """w shows it in the Run tab, c copies the command that reproduces it."""
    async with bench() as (app, pilot):
        await pilot.press("f3")
        await pilot.pause()
        run = app.query_one(AnalysePane).runs[0]
        await pilot.press("c")
        await pilot.pause()
        assert app.copied.startswith("flmaster --devices cpu")
        assert app.copied.endswith(f"{run.name}/experiment.toml")
        await pilot.press("w")
        await pilot.pause()
        assert app.query_one(TabbedContent).active == "run"
        watching = app.query_one(RunPane).watching
        assert watching is not None
        assert list(watching.state.runs) == [run.name]


@pytest.mark.parametrize("size", [(80, 24), (200, 60)])
async def test_it_fits_small_and_large_terminals(bench: Open, size: tuple[int, int]) -> None:
    """Every tab is drawn; on 80 columns the preview gives way to the form."""
    async with bench(size=size) as (app, pilot):
        assert app.query_one("#preview").display == (size[0] >= 110)
        assert app.query_one("#launch").region.right <= size[0]
        for key in ("f2", "f3", "f4", "f1"):
            await pilot.press(key)
            await pilot.pause()
        await pilot.press("f3", "a")
        await pilot.pause()
        chart = app.query_one(Chart)
        assert chart.region.right <= size[0]
        assert chart.region.height >= 8


def test_without_textual_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an optional extra."""
    monkeypatch.setitem(sys.modules, "textual", None)
    done = CliRunner().invoke(main, ["ui"])
    assert done.exit_code == 2
    assert done.output.strip() == "flctl: ui needs textual: pip install 'flspan[ui]'"


def test_a_wrong_file_is_an_error_before_the_screen(tmp_path: Path) -> None:
    """Exit code 2 and one line."""
    done = CliRunner().invoke(main, ["ui", str(tmp_path / "none.toml")])
    assert done.exit_code == 2
    assert "none.toml cannot be read" in done.output
