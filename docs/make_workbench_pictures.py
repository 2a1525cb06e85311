"""Makes docs/pictures/workbench-*.svg: the four tabs of `flctl ui` while it does what a user does with it.

    python docs/make_workbench_pictures.py [--into docs/pictures] [--size 120x38]

Keys are pressed through Textual's Pilot, and the runs are really run, in a folder of their own that is then removed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import tempfile
from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import OptionList, Select

from master.workbench.app import Workbench
from master.workbench.draft import Draft
from master.workbench.run_pane import RunPane

HERE = Path(__file__).resolve().parent
EXPERIMENT = HERE.parent / "examples" / "digits.toml"
_HALF = 60
"""The Run tab is pictured when a run has done so many rounds."""


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=HERE / "pictures")
    parser.add_argument("--size", default="120x38", help="COLUMNSxLINES")
    arguments = parser.parse_args()
    columns, lines = (int(part) for part in arguments.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        into = arguments.into.resolve()
        os.chdir(folder)
        Path("digits.toml").write_text(EXPERIMENT.read_text())
        asyncio.run(_take(into, (columns, lines)))


async def _take(into: Path, size: tuple[int, int]) -> None:
    app = Workbench(Draft.read(Path("digits.toml")), Path("runs"))
    async with app.run_test(size=size) as pilot:
        pages = app.query_one("#sections", OptionList)
        pages.highlighted = pages.get_option_index("uplink")
        await pilot.pause()
        app.query_one("#edit-uplink-name", Select).value = "randk"
        await pilot.pause()
        await pilot.click("#edit-uplink-k")
        await pilot.press(*"10%")
        await _picture(pilot, into / "workbench-configure.svg")
        app.configure.draft.put("sweep", {"seed": [1, 2], "uplink.name": ["randk", "topk"]})
        app.configure.chosen |= {"devices": "cpu"}
        await pilot.press("f5")
        while app.launched is None or not _is_half_done(app):
            await pilot.pause(0.1)
        await _picture(pilot, into / "workbench-run.svg")
        await app.launched.wait()
        await pilot.press("f3", "a")
        app.query_one("#y", Select).value = "grad_norm"
        app.query_one("#x", Select).value = "bits_up"
        await _picture(pilot, into / "workbench-analyse.svg")
        await pilot.press("f4")
        await _picture(pilot, into / "workbench-log.svg")


def _is_half_done(app: Workbench) -> bool:
    watching = app.query_one(RunPane).watching
    if app.launched is not None and not app.launched.is_running:
        raise SystemExit(f"flmaster ended with {app.launched.exit_code}: {app.launched.output}")
    return watching is not None and any(run.finished_rounds >= _HALF for run in watching.state.runs.values())


async def _picture(pilot: Pilot[None], path: Path) -> None:
    """The screen without fonts from the network."""
    await pilot.pause(0.5)
    pilot.app.clear_notifications()
    await pilot.pause(0.3)
    svg = re.sub(r"@font-face\s*{.*?}", "", pilot.app.export_screenshot(), flags=re.DOTALL)
    svg = svg.replace("Fira Code", "DejaVu Sans Mono, Menlo, Consolas")
    path.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")
    print(path)


if __name__ == "__main__":
    main()
