"""Plain lines for people and grep: one a round, and one for whatever else a reader of the log should know.

round 12/100  clients 10  loss_train 0.412  f 0.43  accuracy 0.93  bits_up 1.2e+06  round_s 0.031
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import TextIO

from master.events import (
    CheckpointSaved,
    Event,
    FusingDecided,
    Metrics,
    Noted,
    Paused,
    Resumed,
    RunFinished,
    RunStarted,
    Stopping,
    WaitingForWorkers,
    Warned,
    WorkerJoined,
    WorkerLost,
    WorkerReturned,
)
from master.observers.round_records import RoundRecords
from master.observers.units import number, printable

# the order on a line; what is not named here comes after, in the order it was measured
ORDER = (
    "clients",
    "loss_train",
    "f",
    "loss",
    "accuracy",
    "accuracy_top5",
    "grad_norm",
    "direction_norm",
    "distance",
    "oracle_calls",
    "bits_up",
    "bits_down",
)
_LAST = ("round_s", "elapsed_s")
TRACEBACK = "\nTraceback (most recent call last)"
"""How the traceback begins in the text of a failure; a terminal shows what stands before it."""
_QUANTILES = ("min", "q10", "q50", "q90", "max")
_PLACED = frozenset({*ORDER, *_LAST, "round"})


def round_line(round_number: int, rounds: int, metrics: Metrics) -> str:
    """One round as `name value` pairs, two blanks apart."""
    return "  ".join([f"round {round_number}/{rounds}", *_pairs(metrics)])


def _pairs(metrics: Metrics) -> list[str]:
    pairs = []
    for label, names in _columns(tuple(metrics)):
        if len(names) == 1:
            pairs.append(f"{label} {number(metrics[label])}")
        else:
            least, most, median = (number(metrics[name]) for name in names)
            pairs.append(f"{label} {least}…{most} (median {median})")
    return pairs


@lru_cache(maxsize=16)
def _columns(measured: tuple[str, ...]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """What stands on a line, in order: a label, and the names of its values. Most rounds measure the same.

    Quantiles over the clients are one pair, `client_f 0.12…0.98 (median 0.4)`, of the least, the greatest and the
    median: where the first of them stands. metrics.jsonl has them all.
    """
    middle = [name for name in measured if name not in _PLACED]
    columns: list[tuple[str, tuple[str, ...]]] = []
    for name in (*ORDER, *middle, *_LAST):
        family, _, quantile = name.rpartition("_")
        told = (f"{family}_min", f"{family}_max", f"{family}_q50")
        if name not in measured:
            continue
        if quantile not in _QUANTILES or not all(each in measured for each in told):
            columns.append((name, (name,)))
        elif quantile == "min":
            columns.append((family, told))
    return tuple(columns)


def describe(event: Event) -> str | None:
    """The text of an event that is no round; None for those that only a screen shows. May have line ends."""
    describes = _DESCRIPTIONS.get(type(event))
    return describes(event) if describes is not None else None


def _started(event: RunStarted) -> str:
    of = f" {event.position}/{event.runs}" if event.runs > 1 else ""
    goes_on = f"  from round {event.first_round}" if event.first_round > 1 else ""
    return (
        f"run{of} {event.run} starts: {event.name}  algorithm {event.algorithm}  rounds {event.rounds}  "
        f"clients {event.clients}  per_round {event.per_round}  d {event.d}  seed {event.seed}{goes_on}  "
        f"folder {event.folder}"
    )


def _finished(event: RunFinished, *, whole: bool = False) -> str:
    """How it ended. With a text, what was measured is a line of its own, and a traceback is `whole`'s alone."""
    if not event.text:
        return "  ".join([f"run {event.run} {event.reason}", *_pairs(event.summary)])
    said, traceback, frames = event.text.partition(TRACEBACK)
    lines = [f"run {event.run} {event.reason}: {said}"]
    if event.summary:
        lines.append("  ".join([f"run {event.run} measured last", *_pairs(event.summary)]))
    if traceback and whole:
        lines.append(f"{traceback}{frames}".strip())
    return "\n".join(lines)


def _arrived(event: WorkerJoined | WorkerReturned) -> str:
    verb = "joined" if isinstance(event, WorkerJoined) else "returned"
    devices = ",".join(event.devices)
    return f"worker {event.name} {verb}  address {event.address}  slots {event.slots}  devices {devices}"


_TOGETHER = {True: "run together", False: "run one by one"}
_DESCRIPTIONS: dict[type, Callable[..., str]] = {
    RunStarted: _started,
    RunFinished: _finished,
    WorkerJoined: _arrived,
    WorkerReturned: _arrived,
    WorkerLost: lambda event: f"worker {event.name} lost: {event.reason}",
    WaitingForWorkers: lambda event: f"waiting: no worker lives, {event.tasks} tasks wait for one",
    Paused: lambda _: "paused",
    Resumed: lambda _: "resumed",
    Stopping: lambda event: f"stopping: {event.reason}",
    Warned: lambda event: f"warning: {event.text}",
    Noted: lambda event: f"note: {event.text}",
    FusingDecided: lambda event: f"{event.executor}: clients {_TOGETHER[event.fused]}: {event.reason}",
    CheckpointSaved: lambda event: f"checkpoint  round {event.round}  {event.path}",
}


class TextLog:
    """Writes lines to `stream`, which may hold them until `flush`. `timestamps` puts the local time before each.

    Lines of a run are marked with its name while several are under way; with `run`, what concerns another run is left
    out. `close` leaves the stream open.
    """

    def __init__(
        self, stream: TextIO, *, timestamps: bool = False, checkpoints: bool = True, run: str | None = None
    ) -> None:
        self._stream = stream
        self._run = run
        self._whole = timestamps  # a file, where there is room for a traceback
        self._timestamps = timestamps
        self._checkpoints = checkpoints
        self._runs: dict[str, tuple[RunStarted, RoundRecords]] = {}

    def observe(self, event: Event) -> None:
        """Write what `event` has to say, if anything."""
        if self._run is not None and getattr(event, "run", self._run) != self._run:
            return
        if isinstance(event, RunStarted):
            self._runs[event.run] = (event, RoundRecords(event.run))
        several = len(self._runs) > 1
        for started, records in self._runs.values():
            for round_number, metrics in records.take(event):
                mark = f"[{started.run}] " if several else ""
                self._write(event.time_s, mark + round_line(round_number, started.rounds, metrics))
        text = _finished(event, whole=True) if self._whole and isinstance(event, RunFinished) else describe(event)
        if text is not None and (self._checkpoints or not isinstance(event, CheckpointSaved)):
            for line in text.splitlines():
                self._write(event.time_s, line)
        if isinstance(event, RunFinished):
            self._runs.pop(event.run, None)

    def flush(self) -> None:
        """So far for now: whoever reads along should see it."""
        self._stream.flush()

    def close(self) -> None:
        """Nothing is held back but lines of unfinished runs, which have no numbers yet."""
        self._stream.flush()

    def _write(self, time_s: float, line: str) -> None:
        self._stream.write(f"{_stamp(int(time_s)) if self._timestamps else ''}{printable(line)}\n")


@lru_cache(maxsize=1)
def _stamp(time_s: int) -> str:
    """The local time, to the second; many lines have the same."""
    return time.strftime("%Y-%m-%d %H:%M:%S  ", time.localtime(time_s))
