"""`view(state, width, height)`: the whole screen, a pure function of what is known.

    narrow (below 140 columns)       wide
    ╭ name ─────────── run 2/6 ╮     ╭ name ──────────────────────── run 2/6 ╮
    │ run, progress, tasks     │     │ run, progress, tasks                  │
    ├ runs (if several) ───────┤     ├ runs (if several) ────────────────────┤
    ├ metrics ─────────────────┤     ├ metrics ─────────┬─ workers ──────────┤
    │ sparklines, counters     │     │ charts           │ table              │
    ├ workers ─────────────────┤     │                  ├─ log ──────────────┤
    │ table                    │     │                  │ lines              │
    ├ log ─────────────────────┤     │ counters         │                    │
    ╰ keys ────────────────────╯     ╰ keys ────────────┴────────────────────╯

A high screen has charts for sparklines. What does not fit gives way in this order: log, metrics; workers are always
shown or counted.
"""

from __future__ import annotations

import time

from rich.console import Group, RenderableType
from rich.text import Text

from master.observers import dashboard_metrics as metrics
from master.observers import dashboard_panels as panels
from master.observers import dashboard_workers as workers
from master.observers.dashboard_state import RunView, State
from master.observers.screen_frame import Section, beside, fit, frame, spread
from master.observers.text_log import ORDER
from master.observers.units import duration, number, printable

WIDE = 140  # columns from which metrics and workers stand side by side
_HIGH = 28  # lines from which a sweep has a line of its own
_LEAST_WIDTH, _LEAST_HEIGHT = 24, 5


def view(state: State, width: int, height: int, page: int = 0, chosen: int = 0) -> Text:
    """The screen on `width` x `height` cells.

    Args:
        page: turns the table of workers and the metrics, round and round.
        chosen: which of several runs under way is shown; 0 is the last that started.
    """
    width, height = max(width, _LEAST_WIDTH), max(height, _LEAST_HEIGHT)
    run = state.current(chosen)
    inner = width - 4
    if run is None:
        lines = [Text("waiting for the first run", style="grey58")]
    else:
        lines = panels.run_lines(state, run, inner)
        alone = state.watched and len(state.runs) == 1  # one run of a sweep, whose others nobody looked at
        if run.started.runs > 1 and height >= _HIGH and not alone:
            lines.append(panels.sweep_line(state, run, inner))
    top = Section(_title(run), lines[: max(1, height - 4)], _note(state, run))
    room = height - 2 - len(top.lines)  # without the first divider and the footer
    sections = []
    under_way = sum(other.ended is None for other in state.runs.values())
    if run is not None and under_way > 1 and room >= 16:
        several = panels.several_lines(state, run, inner, min(8, room // 4))
        sections.append(Section(Text.assemble(("runs ", "bold"), f"{under_way} under way"), several))
        room -= 1 + len(several)
    if width >= WIDE and run is not None and room >= 8:
        sections += _wide(state, run, inner, room, page)
    else:
        sections += _narrow(state, run, inner, room, page)
    return frame([top, *sections], _keys(state, under_way), width, height)


def _narrow(state: State, run: RunView | None, inner: int, room: int, page: int) -> list[Section]:
    sections: list[Section] = []
    workers_need = len(state.workers) + 2  # divider and titles
    if run is not None and room >= 9:
        section = _metrics(run, inner, room, min(workers_need, room // 2), page)
        sections.append(section)
        room -= 1 + len(section.lines)
    least_log = 0 if room < 7 else max(3, min(4, room // 4))
    rows = min(workers_need, room - least_log) - 1
    if rows > 0:
        lines = workers.worker_lines(state, inner, rows, page)
        sections.append(Section(workers.workers_title(state), lines))
        room -= 1 + len(lines)
    if room >= 2:
        sections.append(_log(state, inner, room - 1))
    return sections


def _metrics(run: RunView, inner: int, room: int, workers_need: int, page: int) -> Section:
    """Charts where workers and log leave room for the first four, else sparklines."""
    spare = room - workers_need - 7  # for a log of six lines
    count = len(metrics.curve_names(run))
    capacity = metrics.chart_capacity(run, inner, spare)
    if spare >= 9 and min(count, 4) <= capacity:
        return Section(metrics.metrics_title(run, capacity, page), metrics.chart_lines(run, inner, spare, page))
    rows = max(1, min(max(2 if room < 20 else 4, min(6, spare - 2)), (count + 1) // 2))
    return Section(metrics.metrics_title(run, 2 * rows, page), metrics.metric_lines(run, inner, 1 + rows, page))


def _wide(state: State, run: RunView, inner: int, room: int, page: int) -> list[Section]:
    """Charts on the left; on the right the workers, and under them the log."""
    height = room - 1
    left = (inner - 3) * 2 // 5
    right = inner - 3 - left
    charts = metrics.chart_lines(run, left, height, page)
    least_log = min(8, height // 3)
    table = workers.worker_lines(state, right, height - 1 - least_log, page)
    log = panels.log_lines(state.log, right, height - len(table) - 1, _clock)
    both = beside(charts, [*table, *log], left, right, height, {len(table): (_LOG, _warned(state))})
    title = metrics.metrics_title(run, metrics.chart_capacity(run, left, height), page)
    title = Text.assemble(title, " ", ("─" * (left - title.cell_len - 1) + "┬─ ", "grey42"))
    heading = workers.workers_title(state)
    title.append_text(heading if heading.cell_len <= right - 3 else fit(heading, right - 3))
    return [Section(title, both, meets=left + 3)]


_LOG = Text("log", style="bold")


def _warned(state: State) -> Text:
    warned = f"{state.warnings} {'warning' if state.warnings == 1 else 'warnings'}" if state.warnings else ""
    return Text(warned, style="yellow")


def _log(state: State, inner: int, rows: int) -> Section:
    return Section(_LOG, panels.log_lines(state.log, inner, rows, _clock), _warned(state))


def _clock(time_s: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(time_s))


def _title(run: RunView | None) -> Text:
    name = printable(run.started.name) if run is not None else ""
    return Text.assemble(("flspan", "bold"), (f" {name}" if name else "", "bold cyan"))


def _note(state: State, run: RunView | None) -> Text:
    note = Text()
    if state.stopping is not None:
        note.append(" STOPPING ", style="bold white on red")
    elif state.paused:
        note.append(" PAUSED ", style="bold black on yellow")
    elif state.waiting_tasks is not None:
        note.append(" WAITING ", style="bold black on yellow")
    if run is None:
        return note
    others = sum(1 for other in state.runs.values() if other.ended is None and other is not run)
    if note.plain:
        note.append(" ")
    if run.started.runs > 1:
        note.append(f"run {run.started.position}/{run.started.runs}", style="bold")
        note.append(f" +{others} under way  " if others else "  ")
    note.append(f"seed {run.started.seed} {printable(run.started.digest)[:8]}", style="grey58")
    return note


def _keys(state: State, under_way: int) -> Text:
    if state.watched:
        keys = [("q", "leave"), ("← →", "page")]
    else:
        keys = [("q", "stop and save"), ("p", "resume" if state.paused else "pause"), ("← →", "page")]
    if under_way > 1:
        keys.append(("↑ ↓", "run"))
    return Text("  ").join(Text.assemble((key, "bold cyan"), f" {does}") for key, does in keys)


def summary(state: State, width: int) -> RenderableType:
    """What stays on the terminal after the screen is gone: each run, how it ended, its last numbers."""
    lines: list[Text] = []
    for run in state.runs.values():
        reason = run.ended.reason if run.ended else "unfinished"
        style = "bold green" if reason == "finished" else "bold yellow" if reason != "failed" else "bold red"
        until_s = run.ended.time_s if run.ended else state.now_s
        took = duration(max(0.0, until_s - run.started.time_s))
        head = Text.assemble((printable(run.started.run), "bold"), "  ", (reason, style))
        rounds = Text(f"{run.finished_rounds}/{run.started.rounds} rounds in {took}", style="grey58")
        lines.append(spread(head, rounds, width))
        if run.ended is not None and run.ended.text:
            lines.append(Text("  " + printable(run.ended.text), style="red"))
        pairs = [f"{name} {number(run.metrics[name])}" for name in ORDER if name in run.metrics]
        if pairs:
            lines.append(Text("  " + "  ".join(pairs)))
        lines.append(Text("  " + printable(run.started.folder), style="grey58"))
    return Group(*lines)
