"""What runs, how far it is, and the log: pure functions from state to lines that fit a width."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from rich.text import Text

from master.events import RunStarted
from master.observers.dashboard_state import LogLine, RunView, State
from master.observers.screen_frame import bar, fit, spread
from master.observers.units import duration, number, printable, scaled

_LOG_STYLES = {"warning": "yellow", "error": "bold red", "output": "grey50"}
_REASON_STYLES = {"finished": "green", "failed": "red"}
_KEY_METRICS = ("grad_norm", "f", "loss_train", "accuracy", "loss", "distance")
_DIM = "grey58"


def run_lines(state: State, run: RunView, width: int) -> list[Text]:
    """What runs, how far it is, and this round's tasks: three lines."""
    started = run.started
    parts = [_name(started), started.data, started.model, started.uplink]
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


def _name(started: RunStarted) -> str:
    """The label, with the algorithm where the label does not say it."""
    if not started.label or started.algorithm.casefold() in started.label.casefold():
        return started.label or started.algorithm
    return f"{started.algorithm} · {started.label}"


def _tasks_line(state: State, run: RunView, room: int, indent: int) -> Text:
    if run.ended is not None:
        style = {"finished": "bold green", "stopped": "bold yellow"}.get(run.ended.reason, "bold red")
        return Text.assemble((run.ended.reason, style), "  ", (printable(run.ended.text), _DIM))
    if state.waiting_tasks is not None:
        return Text(f"no worker lives: {state.waiting_tasks} tasks wait for one", style="bold yellow")
    label = fit(Text(f"tasks {run.tasks_done}/{run.tasks}"), indent - 2)
    counts = f"  {run.clients} clients"
    last = run.metrics.get("round_s")
    pace = f"  {duration(last)} a round" if last is not None else ""
    return Text.assemble(label, "  ", bar(run.tasks_done, run.tasks, room, "magenta"), (f"{counts}{pace}", _DIM))


def sweep_line(state: State, run: RunView, width: int) -> Text:
    """How far all runs of the file are, how the finished ones ended, and the time left if they go on so."""
    of = run.started.runs
    under_way = [view for view in state.runs.values() if view.ended is None]
    share = sum(view.finished_rounds / max(1, view.started.rounds) for view in under_way)
    begun = max(view.started.position for view in state.runs.values())
    done = begun - len(under_way) + share
    label = Text.assemble("runs ", (f"{begun - len(under_way)}/{of}", "bold"), "  ")
    ended = Counter(view.ended.reason for view in state.runs.values() if view.ended is not None)
    notes = Text.assemble((f"{math.floor(100 * done / of):3}%", "bold"), (_sweep_eta(state, done, of), _DIM))
    for reason, count in ended.items():
        notes.append(f"  {count} {reason}", style=_REASON_STYLES.get(reason, "yellow"))
    indent = len(f"round {run.finished_rounds}/{run.started.rounds}  ")
    room = max(4, width - max(indent, label.cell_len) - max(notes.cell_len, 25) - 2)
    return Text.assemble(fit(label, max(indent, label.cell_len)), bar(done, of, room, "blue"), "  ", notes)


def _sweep_eta(state: State, done: float, of: int) -> str:
    """By the pace of what was done here: runs that were finished before cost nothing."""
    begin_s = min(view.started.time_s for view in state.runs.values())
    here = sum(
        (view.finished_rounds - view.started.first_round + 1) / max(1, view.started.rounds)
        for view in state.runs.values()
    )
    elapsed_s = max(0.0, state.now_s - begin_s)
    eta = f"  ETA {duration(elapsed_s / here * (of - done))}" if here > 0 and done < of else ""
    return f"  {duration(elapsed_s)}{eta}"


def several_lines(state: State, shown: RunView, width: int, rows: int) -> list[Text]:
    """A line for each run under way, the shown one marked; what does not fit is counted."""
    views = [view for view in state.runs.values() if view.ended is None]
    longest = max(len(_name(view.started)) + len(f"  seed {view.started.seed}") + 2 for view in views)
    names = min(longest, max(16, width - _SEVERAL_WIDTH - 10))
    lines = [_several_line(view, view is shown, names, width) for view in views]
    if len(lines) <= rows:
        return lines
    return [*lines[: rows - 1], Text(f"… {len(lines) - rows + 1} more", style="bold")][:rows]


_SEVERAL_WIDTH = 47
"""Of rounds, time left and a metric."""


def _several_line(view: RunView, is_shown: bool, names: int, width: int) -> Text:
    style = "bold cyan" if is_shown else ""
    mark, name = "▸ " if is_shown else "  ", printable(_name(view.started))
    head = Text.assemble((mark + name, style), (f"  seed {view.started.seed}", _DIM))
    key = next((name for name in _KEY_METRICS if name in view.metrics), None)
    metric = f"{key} {number(view.metrics[key])}" if key is not None else ""
    eta = f"ETA {duration(view.eta_s)}" if view.eta_s is not None else ""
    rounds = f"{view.finished_rounds}/{view.started.rounds}"
    progress = bar(view.finished_rounds, view.started.rounds, max(4, width - names - _SEVERAL_WIDTH), "cyan")
    right = Text.assemble(
        "  ", fit(Text(rounds), 10, "right"), "  ", fit(Text(eta, style=_DIM), 11), "  ", fit(Text(metric), 18)
    )
    return fit(Text.assemble(fit(head, names), "  ", progress, right), width)


def log_lines(lines: Sequence[LogLine], width: int, rows: int, clock: Callable[[float], str]) -> list[Text]:
    """The last lines, newest below. A last warning that is older than they are stays, as the first."""
    if rows <= 0:
        return []
    shown = list(lines[-rows:])
    warned = next((line for line in reversed(lines) if line.kind in ("warning", "error")), None)
    if rows > 2 and warned is not None and not any(line is warned for line in shown):
        shown[0] = warned
    return [
        fit(
            Text.assemble((clock(line.time_s) + " ", _DIM), (line.text, _LOG_STYLES.get(line.kind, ""))),
            width,
        )
        for line in shown
    ]
