"""`--track tensorboard,wandb,mlflow`: every record of metrics.jsonl handed to a tracker, in a thread of its own.

A tracker may be slow (a database, a network) and may fail. It never blocks the event loop, holds a bounded number of
records, and never stops a run: what cannot be taken is left out with a warning, and metrics.jsonl has it all.
"""

from __future__ import annotations

import difflib
import importlib
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from master.events import Event, Metrics, RunFinished, RunStarted
from master.flctl.stored_run import StoredRun
from master.observers.round_records import RoundRecords
from protocol.errors import InputError

MOST_WAITING = 10_000
"""Records that may wait for a slow tracker."""
CLOSE_S = 60.0
"""So long the end of flmaster waits for a tracker to take what is left."""


class TrackedRun(Protocol):
    """One run in a tracker. All calls come from one thread; an exception costs the tracker its place."""

    def log(self, round: int, metrics: Metrics, time_s: float) -> None:
        """The complete record of a round; rounds come in order."""

    def finish(self, ended: RunFinished | None) -> None:
        """The last call; None: flmaster ends without a word of the run's."""


OpenRun = Callable[[RunStarted, Mapping[str, Any]], TrackedRun]
"""Begins a run, or goes on with one (`first_round` > 1), with its settings by dotted key."""


@dataclass(frozen=True, slots=True)
class _Record:
    run: str
    round: int
    metrics: Metrics
    time_s: float


def names() -> list[str]:
    """The trackers there are, installed or not."""
    folder = Path(__file__).parent / "trackers"
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def trackers(wanted: Iterable[str], warn: Callable[[str], None]) -> list[Tracker]:
    """An observer for each of `wanted`, each once.

    Args:
        warn: told, on the event loop, when a tracker is too slow.

    Raises:
        InputError: there is no such tracker, or its package is missing.
    """
    made = []
    for name in dict.fromkeys(wanted):
        if name not in names():
            near = difflib.get_close_matches(name, names(), n=1)
            hint = f'did you mean "{near[0]}"?' if near else f"there are: {', '.join(names())}"
            raise InputError(f'--track: there is no tracker "{name}"; {hint}')
        try:
            module = importlib.import_module(f"master.observers.trackers.{name}")
        except ImportError as error:
            raise InputError(f"--track {name} needs {name}: pip install 'flspan[{name}]' ({error})") from None
        made.append(Tracker(name, cast("OpenRun", module.open_run), warn))
    return made


class Tracker:
    """An observer that hands complete records to a tracker's thread.

    Args:
        name: of the tracker, for its errors.
        open_run: called in the thread, when a run starts.
        warn: told once, on the event loop, when records are left out.
    """

    def __init__(self, name: str, open_run: OpenRun, warn: Callable[[str], None]) -> None:
        self._name, self._open_run, self._warn = name, open_run, warn
        self._records: dict[str, RoundRecords] = {}
        self._queue: queue.SimpleQueue[RunStarted | _Record | RunFinished | None] = queue.SimpleQueue()
        self._left_out = 0
        self._error: Exception | None = None
        # A thread that hangs in a network must not keep flmaster from ending: hence a daemon.
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def observe(self, event: Event) -> None:
        """Queue what the event completes. Raises what the thread raised."""
        self._check()
        if isinstance(event, RunStarted):
            self._records[event.run] = RoundRecords(event.run)
            self._queue.put(event)
            return
        for run, records in self._records.items():
            for number, metrics in records.take(event):
                self._put(_Record(run, number, metrics, event.time_s))
        if isinstance(event, RunFinished) and self._records.pop(event.run, None) is not None:
            self._queue.put(event)

    def close(self) -> None:
        """Wait, not for ever, until all is taken. Raises what the thread raised, or TimeoutError."""
        self._queue.put(None)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            raise TimeoutError(f"{self._name} did not take {self._queue.qsize()} last records within {CLOSE_S:g} s")
        self._check()

    def _put(self, record: _Record) -> None:
        if self._queue.qsize() < MOST_WAITING:
            self._queue.put(record)
            return
        if not self._left_out:
            self._warn(
                f"{self._name} is {MOST_WAITING} rounds behind: it will lack round {record.round} of {record.run} "
                "and others; metrics.jsonl has them all"
            )
        self._left_out += 1

    def _check(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise RuntimeError(f"{self._name}: {type(error).__name__}: {error}") from error

    # --- in the thread -----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        under_way: dict[str, TrackedRun] = {}
        try:
            while (item := self._queue.get()) is not None:
                self._take(item, under_way)
            for run in under_way.values():
                run.finish(None)
        except Exception as error:  # raised again on the event loop, where the stream names it and drops the tracker
            self._error = error

    def _take(self, item: RunStarted | _Record | RunFinished, under_way: dict[str, TrackedRun]) -> None:
        match item:
            case RunStarted():
                under_way[item.run] = self._open_run(item, StoredRun(Path(item.folder)).settings)
            case _Record():
                under_way[item.run].log(item.round, item.metrics, item.time_s)
            case RunFinished():
                under_way.pop(item.run).finish(item)


__all__ = ["OpenRun", "TrackedRun", "Tracker", "names", "trackers"]
