"""The table of workers on screen: every worker has a row or is counted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.text import Text

from master.observers.dashboard_state import State, WorkerView
from master.observers.screen_frame import bar, fit, spread
from master.observers.units import duration, printable, scaled

_STATE_STYLES = {"working": "green", "idle": "cyan", "lost": "bold red"}
_DIM = "grey58"


@dataclass(frozen=True)
class _Column:
    title: str
    width: int
    rank: int  # the highest go first when there is no room
    cell: Callable[[WorkerView, float], str | Text]
    align: str = "right"
    is_wanted: Callable[[State], bool] = lambda _: True


def _devices(devices: Sequence[str]) -> str:
    """cpu; cuda:0,1,2,3 for four of a kind."""
    kinds: dict[str, list[str]] = {}
    for device in devices:
        kind, _, index = printable(device).partition(":")
        kinds.setdefault(kind, []).extend([index] if index else [])
    return " ".join(f"{kind}:{','.join(indices)}" if indices else kind for kind, indices in kinds.items())


def _bytes(value: int | None) -> str:
    return "–" if value is None else scaled(value, "B")


def _heard(worker: WorkerView, now_s: float) -> str:
    return "–" if worker.last_heard_s is None else duration(max(0.0, now_s - worker.last_heard_s))


def _rate(worker: WorkerView, _: float) -> str:
    return "–" if worker.tasks_per_s is None else scaled(worker.tasks_per_s)


def _load(worker: WorkerView, _: float) -> Text:
    return bar(worker.busy, worker.slots, _LOAD_WIDTH, "green" if worker.busy else "grey30")


def _has_gpus(state: State) -> bool:
    return any(worker.gpu_memory_bytes is not None for worker in state.workers.values())


_LOAD_WIDTH = 12
_COLUMNS = (
    _Column("devices", 11, 6, lambda w, _: _devices(w.devices), "left"),
    _Column("load", _LOAD_WIDTH, 9, _load, "left"),
    _Column("busy", 6, 1, lambda w, _: f"{w.busy}/{w.slots}"),
    _Column("tasks/s", 7, 2, _rate),
    _Column("memory", 7, 5, lambda w, _: _bytes(w.memory_bytes)),
    _Column("gpu mem", 7, 4, lambda w, _: _bytes(w.gpu_memory_bytes), "right", _has_gpus),
    _Column("sent", 7, 7, lambda w, _: _bytes(w.sent_bytes)),
    _Column("recv", 7, 8, lambda w, _: _bytes(w.received_bytes)),
    _Column("heard", 6, 3, _heard),
    _Column("state", 8, 0, lambda w, _: printable(w.state), "left"),
)
_NAME_WIDTH = 12  # at least


def worker_lines(state: State, width: int, rows: int, page: int) -> list[Text]:
    """A table on at most `rows` lines. Every worker has a row or is counted in the last line."""
    workers = list(state.workers.values())
    if not workers:
        return [Text("no worker has joined yet", style=_DIM)][:rows]
    if len(workers) + 1 <= rows:
        shown, rest = workers, []
    else:
        size = max(0, rows - 2)
        pages = math.ceil(len(workers) / size) if size else 1
        first = min(page % pages * size, len(workers) - size)  # the last page is full, too
        shown = workers[first : first + size]
        rest = workers[:first] + workers[first + size :]
    columns = _columns(state, width)
    name_width = width - sum(column.width + 1 for column in columns)
    lines: list[Text] = []
    if shown:
        titles = [fit(Text(column.title), column.width, column.align) for column in columns]
        head = Text(" ").join([fit(Text("name"), name_width), *titles])
        head.stylize(_DIM)
        lines = [head, *(_worker_line(worker, state.now_s, columns, name_width) for worker in shown)]
    if rest:
        turn = f"page {page % pages + 1}/{pages}, press ← →" if shown and pages > 1 else ""
        lines.append(_more_line(rest, bool(shown), turn, width))
    return lines


def _columns(state: State, width: int) -> list[_Column]:
    kept: list[_Column] = []
    room = width - _NAME_WIDTH
    for column in sorted((c for c in _COLUMNS if c.is_wanted(state)), key=lambda column: column.rank):
        if column.width + 1 <= room:
            kept.append(column)
            room -= column.width + 1
    return [column for column in _COLUMNS if column in kept]


def _worker_line(worker: WorkerView, now_s: float, columns: Sequence[_Column], name_width: int) -> Text:
    cells = [fit(Text(printable(worker.name)), name_width)]
    for column in columns:
        style = _STATE_STYLES.get(worker.state, "yellow") if column.title == "state" else ""
        cell = column.cell(worker, now_s)
        cells.append(fit(cell if isinstance(cell, Text) else Text(cell, style=style), column.width, column.align))
    line = Text(" ").join(cells)
    if worker.state == "lost":
        line.stylize("red")
    return line


def _more_line(rest: Sequence[WorkerView], some_shown: bool, turn: str, width: int) -> Text:
    states = Counter(printable(worker.state) for worker in rest)
    said = ", ".join(f"{count} {state}" for state, count in states.most_common())
    count = f"… {len(rest)} more" if some_shown else f"{len(rest)} workers"
    left = Text.assemble((count, "bold"), f": {said}")
    return spread(left, Text(turn, style="bold cyan"), width)


def workers_title(state: State) -> Text:
    """How many there are, in words that hold for every page."""
    alive = [worker for worker in state.workers.values() if worker.state != "lost"]
    lost = len(state.workers) - len(alive)
    busy, slots = sum(worker.busy for worker in alive), sum(worker.slots for worker in alive)
    rate = sum(worker.tasks_per_s or 0.0 for worker in alive)
    title = Text.assemble(("workers ", "bold"), str(len(alive)), f" · {busy}/{slots} slots busy")
    if rate:
        title.append(f" · {scaled(rate)} tasks/s")
    if lost:
        title.append(f" · {lost} lost", style="bold red")
    return title
