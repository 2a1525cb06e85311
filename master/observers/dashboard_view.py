"""`view(state, width, height)`: the whole screen, a pure function of what is known.

    narrow (below 140 columns)       wide
    ╭ name ─────────── run 2/6 ╮     ╭ name ──────────────────────── run 2/6 ╮
    │ run, progress, tasks     │     │ run, progress, tasks                  │
    ├ metrics ─────────────────┤     ├ metrics ─────────┬─ workers ──────────┤
    │ sparklines, counters     │     │ charts           │ table              │
    ├ workers ─────────────────┤     │ counters         │                    │
    │ table                    │     ├ log ─────────────┴────────────────────┤
    ├ log ─────────────────────┤     │ lines                                 │
    ╰ keys ────────────────────╯     ╰ keys ─────────────────────────────────╯

What does not fit gives way in this order: log, metrics; workers are always shown or counted.
"""

from __future__ import annotations

import time
from dataclasses import replace

from rich.console import Group, RenderableType
from rich.text import Text

from master.observers import dashboard_panels as panels
from master.observers.dashboard_state import RunView, State
from master.observers.screen_frame import Section, beside, fit, frame, spread
from master.observers.text_log import ORDER
from master.observers.units import duration, number, printable

WIDE = 140  # columns from which metrics and workers stand side by side
_RUN_LINES = 3
_LEAST_WIDTH, _LEAST_HEIGHT = 24, 5


def view(state: State, width: int, height: int, page: int = 0) -> Text:
    """The screen on `width` x `height` cells; `page` turns the table of workers, round and round."""
    width, height = max(width, _LEAST_WIDTH), max(height, _LEAST_HEIGHT)
    run = state.current
    inner = width - 4
    if run is None:
        top = Section(_title(state), [Text("waiting for the first run", style="grey58")], _note(state))
    else:
        lines = panels.run_lines(state, run, inner)
        top = Section(_title(state), lines[: max(1, height - 4)], _note(state))
    room = height - 2 - len(top.lines)  # without the first divider and the footer
    if width >= WIDE and run is not None and room >= 8:
        sections = _wide(state, run, inner, room, page)
    else:
        sections = _narrow(state, run, inner, room, page)
    return frame([top, *sections], _keys(state), width, height)


def _narrow(state: State, run: RunView | None, inner: int, room: int, page: int) -> list[Section]:
    sections: list[Section] = []
    workers_need = len(state.workers) + 2  # divider and titles
    if run is not None and room >= 9:
        curves = (len(panels.curve_names(run)) + 1) // 2
        most = 2 if room < 20 else 4
        metrics = panels.metric_lines(run, inner, 1 + max(1, min(most, curves)))
        sections.append(Section(Text("metrics", style="bold"), metrics))
        room -= 1 + len(metrics)
    least_log = 0 if room < 7 else max(3, min(4, room // 4))
    rows = min(workers_need, room - least_log) - 1
    if rows > 0:
        lines = panels.worker_lines(state, inner, rows, page)
        sections.append(Section(panels.workers_title(state), lines))
        room -= 1 + len(lines)
    if room >= 2:
        sections.append(_log(state, inner, room - 1))
    return sections


def _wide(state: State, run: RunView, inner: int, room: int, page: int) -> list[Section]:
    log_height = max(3, min(12, room // 4))
    height = room - log_height - 1
    left = (inner - 3) * 2 // 5
    right = inner - 3 - left
    charts = panels.chart_lines(run, left, height)
    table = panels.worker_lines(state, right, height, page)
    height = max(len(charts), len(table))
    both = beside(charts, table, left, right)
    title = Text.assemble(("metrics ", "bold"), ("─" * (left - 8) + "┬─ ", "grey42"))
    workers = panels.workers_title(state)
    title.append_text(workers if workers.cell_len <= right - 3 else fit(workers, right - 3))
    log = replace(_log(state, inner, room - height - 2), joint=(left + 3, "┴"))
    return [Section(title, both), log]


def _log(state: State, inner: int, rows: int) -> Section:
    return Section(Text("log", style="bold"), panels.log_lines(state.log, inner, rows, _clock))


def _clock(time_s: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(time_s))


def _title(state: State) -> Text:
    name = printable(state.current.started.name) if state.current else ""
    return Text.assemble(("flspan", "bold"), (f" {name}" if name else "", "bold cyan"))


def _note(state: State) -> Text:
    note = Text()
    if state.stopping is not None:
        note.append(" STOPPING ", style="bold white on red")
    elif state.paused:
        note.append(" PAUSED ", style="bold black on yellow")
    elif state.waiting_tasks is not None:
        note.append(" WAITING ", style="bold black on yellow")
    run = state.current
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


def _keys(state: State) -> Text:
    pause = "resume" if state.paused else "pause"
    keys = (("q", "stop and save"), ("p", pause), ("← →", "page"))
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
