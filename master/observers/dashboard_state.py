"""What the screen knows: a frozen State, and `fold(state, event) -> state`, the only way it changes.

Nothing here grows with rounds: a series keeps at most 512 measured points and drops every other one when it
is full (no mean, no interpolation: each point shown was measured).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from master.events import (
    CheckpointSaved,
    Evaluated,
    Event,
    Metrics,
    Paused,
    Resumed,
    RoundFinished,
    RoundStarted,
    RunFinished,
    RunStarted,
    Stopping,
    TaskFinished,
    WaitingForWorkers,
    Warned,
    WorkerJoined,
    WorkerLost,
    WorkerReturned,
    WorkerStatus,
)
from master.observers.text_log import describe
from master.observers.units import printable

SERIES_POINTS = 512
LOG_LINES = 200
_RATE_MARKS = 6  # statuses over which tasks/s is measured


@dataclass(frozen=True, slots=True)
class Series:
    """(round, value) of one metric, each as measured; one in `stride` once there were too many."""

    points: tuple[tuple[int, float], ...] = ()
    stride: int = 1
    skipped: int = 0

    def add(self, round_number: int, value: float) -> Series:
        """With one more point, or one more left out."""
        if self.skipped + 1 < self.stride:
            return replace(self, skipped=self.skipped + 1)
        points = (*self.points, (round_number, value))
        if len(points) < SERIES_POINTS:
            return Series(points, self.stride)
        return Series(points[1::2], self.stride * 2)

    def before(self, round_number: int) -> Series:
        """Without what a resumed run measures again."""
        return replace(self, points=tuple(point for point in self.points if point[0] < round_number))


@dataclass(frozen=True, slots=True)
class RunView:
    """One run as shown. `round` is the one under way; `finished_rounds` are done."""

    started: RunStarted
    round: int = 0
    finished_rounds: int = 0
    clients: int = 0
    tasks: int = 0
    tasks_done: int = 0
    last_s: float = 0.0  # time of the last finished round
    metrics: Mapping[str, float | int] = field(default_factory=dict)  # the newest of each
    series: Mapping[str, Series] = field(default_factory=dict)
    ended: RunFinished | None = None

    @property
    def eta_s(self) -> float | None:
        """Time left if rounds go on as they did on average; None before the first and after the last."""
        here = self.finished_rounds - (self.started.first_round - 1)
        if here <= 0 or self.ended is not None:
            return None
        return (self.last_s - self.started.time_s) / here * (self.started.rounds - self.finished_rounds)


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker or local pool as shown."""

    name: str
    address: str
    devices: tuple[str, ...]
    slots: int
    busy: int = 0
    state: str = "idle"
    tasks: int = 0  # finished in this session
    marks: tuple[tuple[float, int], ...] = ()  # (time_s, tasks) at the last statuses
    memory_bytes: int | None = None
    gpu_memory_bytes: int | None = None
    sent_bytes: int | None = None
    received_bytes: int | None = None
    last_heard_s: float | None = None

    @property
    def tasks_per_s(self) -> float | None:
        """Measured over the last few statuses; None before there are two."""
        if len(self.marks) < 2 or self.marks[-1][0] <= self.marks[0][0]:
            return None
        (first_s, first), (last_s, last) = self.marks[0], self.marks[-1]
        return (last - first) / (last_s - first_s)


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of the log pane; `kind` is "info", "warning", "error" or "output" (of some library)."""

    time_s: float
    text: str
    kind: str = "info"


@dataclass(frozen=True, slots=True)
class State:
    """Everything on screen. `now_s` is the time of the last event, or later if whoever draws says so."""

    now_s: float = 0.0
    runs: Mapping[str, RunView] = field(default_factory=dict)  # in order of their start
    workers: Mapping[str, WorkerView] = field(default_factory=dict)  # in order of joining
    log: tuple[LogLine, ...] = ()
    paused: bool = False
    stopping: str | None = None
    waiting_tasks: int | None = None  # tasks that wait while no worker lives
    warnings: int = 0  # so far
    watched: bool = False  # from elsewhere: nothing can be stopped or paused from here

    def current(self, chosen: int = 0) -> RunView | None:
        """Of the runs under way the last that started, or one of the others by `chosen`; else what ended last."""
        under_way = [run for run in self.runs.values() if run.ended is None]
        if under_way:
            return under_way[(-1 + chosen) % len(under_way)]
        ended = [(run.ended.time_s, run) for run in self.runs.values() if run.ended is not None]
        return max(ended, key=lambda pair: pair[0])[1] if ended else None


def fold(state: State, event: Event) -> State:
    """The state after `event`. Pure; an unknown run or worker changes only the clock and the log."""
    state = replace(state, now_s=max(state.now_s, event.time_s))
    rule = _RULES.get(type(event))
    if rule is not None:
        state = rule(state, event)
    if _kind(event) == "warning":
        state = replace(state, warnings=state.warnings + 1)
    text = None if isinstance(event, CheckpointSaved) else describe(event)  # one a round would hide the rest
    return state if text is None else log(state, event.time_s, text, _kind(event))


def log(state: State, time_s: float, text: str, kind: str) -> State:
    """With the lines of `text` at the end of the log pane."""
    lines = tuple(LogLine(time_s, printable(line), kind) for line in text.splitlines())
    return replace(state, log=(*state.log, *lines)[-LOG_LINES:])


def _kind(event: Event) -> str:
    if isinstance(event, RunFinished):
        return "error" if event.reason == "failed" else "info"
    return "warning" if isinstance(event, Warned | WorkerLost | WaitingForWorkers) else "info"


def _with_run(state: State, run: str, **changes: Any) -> State:
    view = state.runs.get(run)
    return state if view is None else replace(state, runs={**state.runs, run: replace(view, **changes)})


def _with_worker(state: State, view: WorkerView) -> State:
    return replace(state, workers={**state.workers, view.name: view})


def _run_started(state: State, event: RunStarted) -> State:
    before = state.runs.get(event.run)
    done = event.first_round - 1
    series = {name: s.before(event.first_round) for name, s in before.series.items()} if before else {}
    metrics = before.metrics if before and done else {}
    others = {name: view for name, view in state.runs.items() if name != event.run}
    view = RunView(event, round=done, finished_rounds=done, metrics=metrics, series=series, last_s=event.time_s)
    return replace(state, runs={**others, event.run: view}, stopping=None)


def _run_finished(state: State, event: RunFinished) -> State:
    view = state.runs.get(event.run)
    if view is None:
        return state
    # a long sweep must not keep the curves of every run it did
    kept = {name: replace(run, series={}) if run.ended else run for name, run in state.runs.items()}
    kept[event.run] = replace(view, ended=event, metrics={**view.metrics, **event.summary})
    state = replace(state, runs=kept)
    return state if any(run.ended is None for run in kept.values()) else _at_rest(state)


def _at_rest(state: State) -> State:
    """No run is under way: nobody works, and what was to stop has stopped."""
    resting = {
        name: replace(worker, busy=0, state="idle" if worker.state == "working" else worker.state)
        for name, worker in state.workers.items()
    }
    return replace(state, workers=resting, stopping=None)


def _round_started(state: State, event: RoundStarted) -> State:
    counts = {"clients": event.clients, "tasks": event.tasks, "tasks_done": 0}
    return _with_run(state, event.run, round=event.round, **counts)


def _task_finished(state: State, event: TaskFinished) -> State:
    view, worker = state.runs.get(event.run), state.workers.get(event.executor)
    if view is not None and view.round == event.round:
        state = _with_run(state, event.run, tasks_done=view.tasks_done + 1)
    return state if worker is None else _with_worker(state, replace(worker, tasks=worker.tasks + 1))


def _measured(view: RunView, round_number: int, metrics: Metrics) -> dict[str, Any]:
    series = dict(view.series)
    for name, value in metrics.items():
        series[name] = series.get(name, Series()).add(round_number, value)
    return {"metrics": {**view.metrics, **metrics}, "series": series}


def _round_finished(state: State, event: RoundFinished) -> State:
    view = state.runs.get(event.run)
    if view is None:
        return state
    done = {"finished_rounds": event.round, "last_s": event.time_s}
    return _with_run(state, event.run, **done, **_measured(view, event.round, event.metrics))


def _evaluated(state: State, event: Evaluated) -> State:
    view = state.runs.get(event.run)
    return state if view is None else _with_run(state, event.run, **_measured(view, event.round, event.metrics))


def _worker_arrived(state: State, event: WorkerJoined | WorkerReturned) -> State:
    before = state.workers.get(event.name)
    view = WorkerView(event.name, event.address, event.devices, event.slots, tasks=before.tasks if before else 0)
    return replace(_with_worker(state, view), waiting_tasks=None)


def _worker_lost(state: State, event: WorkerLost) -> State:
    view = state.workers.get(event.name)
    return state if view is None else _with_worker(state, replace(view, state="lost", busy=0, marks=()))


def _worker_status(state: State, event: WorkerStatus) -> State:
    view = state.workers.get(event.name)
    if view is None:
        return state
    return _with_worker(
        state,
        replace(
            view,
            slots=event.slots,
            busy=event.busy,
            state=event.state,
            memory_bytes=event.memory_bytes,
            gpu_memory_bytes=event.gpu_memory_bytes,
            sent_bytes=event.sent_bytes,
            received_bytes=event.received_bytes,
            last_heard_s=event.last_heard_s,
            marks=(*view.marks, (event.time_s, view.tasks))[-_RATE_MARKS:],
        ),
    )


_RULES: dict[type, Callable[[State, Any], State]] = {
    RunStarted: _run_started,
    RunFinished: _run_finished,
    RoundStarted: _round_started,
    TaskFinished: _task_finished,
    RoundFinished: _round_finished,
    Evaluated: _evaluated,
    WorkerJoined: _worker_arrived,
    WorkerReturned: _worker_arrived,
    WorkerLost: _worker_lost,
    WorkerStatus: _worker_status,
    WaitingForWorkers: lambda state, event: replace(state, waiting_tasks=event.tasks),
    Paused: lambda state, _: replace(state, paused=True),
    Resumed: lambda state, _: replace(state, paused=False),
    Stopping: lambda state, event: replace(state, stopping=event.reason),
}
