"""The Run tab's dashboard from event files: what flctl watch would show, at any size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fl_core.errors import InputError
from master.events import RunStarted, encode
from master.workbench.watching import Watching


def started(run: str) -> RunStarted:
    """A run begins."""
    return RunStarted(
        time_s=1.7e9,
        run=run,
        name="quad",
        algorithm="diana",
        rounds=8,
        clients=4,
        per_round=4,
        d=6,
        seed=1,
        digest="0",
        folder=run,
    )


def test_a_finished_run_is_shown_to_its_end(made: Path) -> None:
    """Every stored event is folded, and nothing is live."""
    (folder,) = (path for path in made.glob("runs/quad/*s1*") if "randk" not in (path / "experiment.toml").read_text())
    watching = Watching(lambda: [folder])
    assert watching.look()
    assert not watching.is_live
    run = watching.state.runs[folder.name]
    assert run.ended is not None
    assert run.ended.reason == "finished"
    assert run.finished_rounds == 8
    assert not watching.look()


@pytest.mark.parametrize(("width", "height"), [(80, 20), (140, 40), (200, 60), (40, 10)])
def test_it_fits_and_has_no_line_of_keys(made: Path, width: int, height: int) -> None:
    """The frame is closed by a line of its own, as wide as the rest."""
    watching = Watching(lambda: sorted(made.glob("runs/quad/*")))
    watching.look()
    lines = watching.draw(width, height).plain.split("\n")
    assert len(lines) <= height
    assert {len(line) for line in lines} == {width}
    assert set(lines[-1]) <= set("╰─┴╯")


def test_a_run_that_is_being_written_grows(tmp_path: Path) -> None:
    """What is appended is seen at the next look; a run whose process is gone is said to be interrupted."""
    folders: list[Path] = []
    watching = Watching(lambda: folders)
    assert not watching.look()
    (tmp_path / "a").mkdir()
    folders.append(tmp_path / "a")
    assert not watching.look()
    with (tmp_path / "a" / "events.jsonl").open("w") as file:
        file.write(json.dumps(encode(started("a"))) + "\n")
    reasons = []
    for _ in range(2):
        assert watching.look()
        ended = watching.state.runs["a"].ended
        reasons.append(ended and ended.reason)
    assert reasons == [None, "interrupted"]


def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    """The screen says it once and goes on."""
    (tmp_path / "events.jsonl").write_text("no json\n")
    with pytest.raises(InputError, match=r"events.jsonl, line 1 is no JSON"):
        Watching(lambda: [tmp_path]).look()
