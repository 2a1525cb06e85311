"""What is written into a run's folder while it runs: its lines, its log, and how it was executed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TextIO

from master.event_stream import EventStream, Observer
from master.observers.execution_record import ExecutionRecord
from master.observers.metrics_jsonl import EventLog, MetricsLog
from master.observers.text_log import TextLog
from master.runs import RunFolder


class RunFiles:
    """The observers that write them, from the run's first event to its last. All but `sync` is on the event loop.

    Args:
        name: the run's.
        after_round: the last round whose lines stay: of those after it, a run that goes on writes new ones.
        warn: told when something cannot be written.

    Attributes:
        is_unsaved: something could not be written.
    """

    def __init__(
        self, folder: RunFolder, name: str, stream: EventStream, after_round: int, warn: Callable[[str], None]
    ) -> None:
        self.is_unsaved = False
        self._folder = folder
        self._stream = stream
        self._warn = warn
        with ExitStack() as stack:
            log = folder.log.open("a", encoding="utf-8")
            stack.callback(self._close_log, log)
            self._metrics = MetricsLog(folder.metrics, name, after_round=after_round, warn=warn)
            self._events = EventLog(folder.events, name, warn=warn)
            observers: list[Observer] = [
                self._metrics,
                self._events,
                TextLog(log, timestamps=True, run=name),
                ExecutionRecord(folder.execution, name),
            ]
            for observer in observers:
                stream.subscribe(observer)
                stack.callback(stream.unsubscribe, observer)
            self._opened = stack.pop_all()

    def flush(self) -> None:
        """Have all that was told written down, what could not be written before too."""
        self._stream.flush()
        for file in (self._metrics, self._events):
            if file.is_behind:
                file.flush()

    def sync(self, round: int) -> None:
        """Put the lines up to this round on the disk: a resumed run never makes up for them. OSError: they are not.

        In any thread.
        """
        last = self._metrics.last_round
        if last is None or last < round:
            raise OSError(f"not all lines of its rounds are in {self._folder.metrics}")
        self._metrics.sync()

    def lacking(self) -> list[str]:
        """Of metrics.jsonl and events.jsonl, those that do not have all their lines."""
        files = (self._metrics, self._events)
        lacking = [file.path.name for file in files if file.is_behind or not self._stream.hears(file)]
        self.is_unsaved = self.is_unsaved or bool(lacking)
        return lacking

    def close(self) -> None:
        """No event follows."""
        self._opened.close()

    def _close_log(self, log: TextIO) -> None:
        """What it still holds may find no room: that costs these lines, not the run."""
        try:
            log.close()
        except OSError as error:
            self.is_unsaved = True
            self._warn(f"the last lines of {self._folder.log} could not be written: {error.strerror}")


__all__ = ["RunFiles"]
