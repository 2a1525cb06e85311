"""Makes docs/pictures: four figures and three screenshots of the dashboard, from runs that are really run.

    python docs/make_pictures.py [--runs-dir runs] [--into docs/pictures]

It takes a few minutes; what is finished is not run again. A screenshot is the dashboard's own view of a stored stream
of events, stopped at a moment in the middle of the sweep.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme

from master.events import RunStarted
from master.flctl.finding import find_runs
from master.flctl.following import Following
from master.observers.dashboard_state import State, fold
from master.observers.dashboard_view import view

HERE = Path(__file__).resolve().parent
DIGITS = ("pictures-digits", "--label", "{algorithm.name}")
UNEVEN = ("--where", "data.partition.alpha=0.1")
PLOTS: dict[str, Sequence[str]] = {
    "bits": (
        *("pictures-bits", "-x", "bits_up", "-y", "f-f*", "--label", "{label}"),
        *("--theory", "--xlim", "0,6e6"),
    ),
    "accuracy": (*DIGITS, *UNEVEN, "-y", "accuracy"),
    "grid": (*DIGITS, "-y", "accuracy", "-y", "grad_norm", "--by", "data.partition.alpha"),
    "clients": (
        *(*DIGITS, *UNEVEN, "-x", "bits_up", "--band", "quantiles"),
        *("-y", "client_accuracy_min", "-y", "client_accuracy_q10", "-y", "client_accuracy_q50"),
    ),
}
SCREENS = {"dashboard-80x24": (80, 24), "dashboard-120x40": (120, 40), "dashboard-200x50": (200, 50)}
SHOWN_RUN = 8
"""The screenshots are taken when this run of the sweep has done half its rounds."""

THEME = TerminalTheme(
    (22, 24, 29),
    (214, 218, 226),
    [(40, 44, 52), (224, 108, 117), (126, 192, 126), (229, 192, 123), (97, 175, 239), (198, 120, 221), (86, 182, 194),
     (190, 196, 206)],
    [(110, 116, 128), (240, 128, 134), (152, 211, 152), (240, 210, 150), (130, 195, 250), (214, 150, 235),
     (120, 205, 215), (240, 243, 248)],
)  # fmt: skip
SVG = """\
<svg class="rich-terminal" viewBox="0 0 {width} {terminal_height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: {char_height}px;
  line-height: {line_height}px; white-space: pre; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
<rect fill="#16181d" x="0" y="0" width="{width}" height="{terminal_height}" rx="8"/>
<g transform="translate({terminal_x}, 0)" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""As rich's own, but without the window around it and without fonts from the network."""


def main() -> None:
    """Run the experiments, draw the figures, take the screenshots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--into", type=Path, default=HERE / "pictures")
    given = parser.parse_args()
    given.into.mkdir(parents=True, exist_ok=True)
    for name in ("bits", "digits"):
        options = ["--spawn", "2", "--parallel-runs", "3", "--no-dashboard", "--runs-dir", str(given.runs_dir)]
        _call("master.cli", *options, str(HERE / "pictures" / f"{name}.toml"))
    for name, words in PLOTS.items():
        where = ["--runs-dir", str(given.runs_dir), "-o", str(given.into / f"{name}.png")]
        _call("master.flctl", "plot", *words, *where)
        (given.into / f"{name}.csv").unlink()  # its numbers would be most of what is committed
    state = state_at(given.runs_dir, SHOWN_RUN)
    for name, (width, height) in SCREENS.items():
        (given.into / f"{name}.svg").write_text(screenshot(state, width, height), encoding="utf-8")


def state_at(runs_dir: Path, position: int) -> State:
    """What the dashboard knew when the run at that position of the sweep had done half its rounds."""
    paths = [run.path for run in find_runs(["pictures-digits"], runs_dir)]
    state, shown = State(), None
    for event in Following(lambda: paths).new():
        state = fold(state, event)
        if isinstance(event, RunStarted) and event.position == position:
            shown = event
        if shown is not None and 2 * state.runs[shown.run].finished_rounds >= shown.rounds:
            break
    return replace(state, watched=False)


def screenshot(state: State, width: int, height: int) -> str:
    """The view as SVG."""
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, record=True)
    console.print(view(state, width, height), end="")
    return console.export_svg(theme=THEME, code_format=SVG, unique_id="flspan", font_aspect_ratio=0.602)


def _call(module: str, *words: str) -> None:
    run = {"master.cli": "from master.cli import main", "master.flctl": "from master.flctl import main"}[module]
    subprocess.run([sys.executable, "-c", f"{run}; main()", *words], check=True)


if __name__ == "__main__":
    main()
