"""The parts of the screen, each a pure function from state to lines that fit a width."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.text import Text

from master.observers.dashboard_state import LogLine, RunView, State, WorkerView
from master.observers.screen_frame import fit, spread
from master.observers.sparkline import is_logarithmic, sparkline
from master.observers.units import duration, number, printable, scaled

# the curves worth a place, best first
CURVES = (
    "loss_train",
    "f",
    "accuracy",
    "grad_norm",
    "loss",
    "distance",
    "accuracy_top5",
    "direction_norm",
)
_STATE_STYLES = {"working": "green", "idle": "cyan", "lost": "bold red"}
_LOG_STYLES = {"warning": "yellow", "error": "bold red", "output": "grey50"}
_DIM = "grey58"


def bar(done: float, total: float, width: int, style: str) -> Text:
    """A line of `width` cells, coloured up to done / total."""
    halves = int(2 * width * min(1.0, max(0.0, done / total))) if total > 0 else 0
    full, half = divmod(halves, 2)
    rest = width - full - half
    return Text.assemble(("━" * full + "╸" * half, style), ("━" * rest, "grey30"))


def run_lines(state: State, run: RunView, width: int) -> list[Text]:
    """What runs, how far it is, and this round's tasks: three lines."""
    started = run.started
    parts = [started.label or started.algorithm, started.data, started.model, started.uplink]
    what = Text(" · ".join(printable(part) for part in parts if part), style="bold cyan")
    who = f"{started.per_round}/{started.clients} clients · d {scaled(started.d)}"
    until_s = run.ended.time_s if run.ended else state.now_s
    elapsed = duration(max(0.0, until_s - started.time_s))
    eta = f"  ETA {duration(run.eta_s)}" if run.eta_s is not None else ""
    share = run.finished_rounds / started.rounds if started.rounds else 1.0
    times = Text.assemble((f"{math.floor(100 * share):3}%", "bold"), (f"  {elapsed}{eta}", _DIM))
    rounds = Text.assemble("round ", (f"{run.finished_rounds}/{started.rounds}", "bold"), "  ")
    room = max(4, width - rounds.cell_len - max(times.cell_len, 25) - 2)
    progress = bar(run.finished_rounds, started.rounds, room, "green" if run.ended else "cyan")
    return [
        spread(what, Text(who, style=_DIM), width),
        Text.assemble(rounds, progress, "  ", times),
        _tasks_line(state, run, room, rounds.cell_len),
    ]


def _tasks_line(state: State, run: RunView, room: int, indent: int) -> Text:
    if run.ended is not None:
        style = "bold green" if run.ended.reason == "finished" else "bold red"
        return Text.assemble((run.ended.reason, style), "  ", (printable(run.ended.text), _DIM))
    if state.waiting_tasks is not None:
        return Text(f"no worker lives: {state.waiting_tasks} tasks wait for one", style="bold yellow")
    label = fit(Text(f"tasks {run.tasks_done}/{run.tasks}"), indent - 2)
    counts = f"  {run.clients} clients"
    last = run.metrics.get("round_s")
    pace = f"  {duration(last)} a round" if last is not None else ""
    return Text.assemble(label, "  ", bar(run.tasks_done, run.tasks, room, "magenta"), (f"{counts}{pace}", _DIM))


def curve_names(run: RunView) -> list[str]:
    """The metrics that have a curve, best first."""
    return [name for name in CURVES if name in run.series and run.series[name].points]


def metric_lines(run: RunView, width: int, rows: int) -> list[Text]:
    """`rows` lines: sparklines in two columns, and the counters last."""
    names = curve_names(run)[: 2 * (rows - 1)]
    if not names:
        nothing = Text("nothing was measured yet", style=_DIM)
        return [nothing, counters(run)][: min(rows, 2 if counters(run).plain else 1)]
    columns = 2 if len(names) > 1 else 1
    label = max(len(name) for name in names)
    cell = (width - 3 * (columns - 1)) // columns
    lines: list[Text] = []
    for first in range(0, len(names), columns):
        cells = [_curve_line(run, name, cell, label) for name in names[first : first + columns]]
        lines.append(Text("   ").join(fit(text, cell) for text in cells))
    return [*lines, counters(run)]


def _curve_line(run: RunView, name: str, width: int, label: int) -> Text:
    values = [value for _, value in run.series[name].points]
    head = Text.assemble(fit(Text(name, style=_DIM), label), " ", _value(run, name, 9, "right"), " ")
    (curve,) = sparkline(values, max(1, width - head.cell_len))
    return Text.assemble(head, (curve, "cyan"))


def chart_lines(run: RunView, width: int, height: int) -> list[Text]:
    """At most `height` lines: curves of several rows under each other, and the counters last."""
    names = curve_names(run)
    if not names:
        return metric_lines(run, width, height)
    names = names[: max(1, (height - 1) // 2)]
    rows = max(1, min(6, (height - 1) // len(names) - 1))
    lines: list[Text] = []
    for name in names:
        values = [value for _, value in run.series[name].points]
        finite = [value for value in values if math.isfinite(value)]
        span = f"{number(min(finite))} … {number(max(finite))}" if finite else "no finite value"
        scale = "  log" if is_logarithmic(values) else ""
        head = Text.assemble((f"{name}  ", _DIM), _value(run, name))
        lines.append(spread(head, Text(span + scale, style=_DIM), width))
        lines.extend(Text(row, style="cyan") for row in sparkline(values, width, rows))
    return [*lines, counters(run)][:height]


def _value(run: RunView, name: str, width: int = 0, align: str = "left") -> Text:
    value = run.metrics.get(name)
    style = "bold" if value is not None and math.isfinite(value) else "bold red"
    text = Text(number(value) if value is not None else "", style=style)
    return fit(text, width, align) if width else text


def counters(run: RunView) -> Text:
    """Cumulative costs, those that were measured."""
    shown = (
        ("bits_up", "up", "bit"),
        ("bits_down", "down", "bit"),
        ("oracle_calls", "oracle calls", ""),
        ("wire_bytes_sent", "wire out", "B"),
        ("wire_bytes_received", "in", "B"),
        ("gpu_memory_bytes", "gpu", "B"),
    )
    pairs = [
        Text.assemble((f"{label} ", _DIM), scaled(run.metrics[name], unit))
        for name, label, unit in shown
        if name in run.metrics
    ]
    return Text("   ").join(pairs)


@dataclass(frozen=True)
class _Column:
    title: str
    width: int
    rank: int  # the highest go first when there is no room
    cell: Callable[[WorkerView, float], str]
    align: str = "right"


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


_COLUMNS = (
    _Column("devices", 11, 5, lambda w, _: _devices(w.devices), "left"),
    _Column("busy", 6, 1, lambda w, _: f"{w.busy}/{w.slots}"),
    _Column("tasks/s", 7, 2, _rate),
    _Column("memory", 7, 4, lambda w, _: _bytes(w.memory_bytes)),
    _Column("sent", 7, 6, lambda w, _: _bytes(w.sent_bytes)),
    _Column("recv", 7, 7, lambda w, _: _bytes(w.received_bytes)),
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
    columns = _columns(width)
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


def _columns(width: int) -> list[_Column]:
    kept: list[_Column] = []
    room = width - _NAME_WIDTH
    for column in sorted(_COLUMNS, key=lambda column: column.rank):
        if column.width + 1 <= room:
            kept.append(column)
            room -= column.width + 1
    return [column for column in _COLUMNS if column in kept]


def _worker_line(worker: WorkerView, now_s: float, columns: Sequence[_Column], name_width: int) -> Text:
    cells = [fit(Text(printable(worker.name)), name_width)]
    for column in columns:
        style = _STATE_STYLES.get(worker.state, "yellow") if column.title == "state" else ""
        cells.append(fit(Text(column.cell(worker, now_s), style=style), column.width, column.align))
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


def log_lines(lines: Sequence[LogLine], width: int, rows: int, clock: Callable[[float], str]) -> list[Text]:
    """The last lines, newest below."""
    shown = lines[-rows:] if rows > 0 else ()
    return [
        fit(
            Text.assemble((clock(line.time_s) + " ", _DIM), (line.text, _LOG_STYLES.get(line.kind, ""))),
            width,
        )
        for line in shown
    ]
