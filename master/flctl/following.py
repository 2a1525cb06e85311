"""The events of stored runs, in the order of their times, and those that are still being written."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from master.events import Event, decode
from protocol.errors import InputError

_REMEMBERED = 512
"""Events of no run (workers, warnings) that are known again: each run under way has stored them."""


class EventFile:
    """One events.jsonl, read on from where the last reading ended. It need not be there yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset_bytes = 0
        self._lines = 0

    def new(self) -> Iterator[Event]:
        """The events of the lines that have become whole. InputError names a damaged line."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            if file.seek(0, 2) < self._offset_bytes:  # another file of the same name
                self._offset_bytes = self._lines = 0
            file.seek(self._offset_bytes)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset_bytes += len(line)
                self._lines += 1
                yield self._event(line)

    def _event(self, line: bytes) -> Event:
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InputError(f"{self.path}, line {self._lines} is no JSON: {error}") from error
        if not isinstance(record, dict):
            raise InputError(f"{self.path}, line {self._lines} is no JSON object")
        try:
            return decode(record)
        except InputError as error:
            raise InputError(f"{self.path}, line {self._lines}: {error}") from error


class Following:
    """The event files of some runs as one stream.

    Args:
        folders: lists the run folders; asked at each reading, since a sweep makes new ones.
    """

    def __init__(self, folders: Callable[[], Sequence[Path]]) -> None:
        self._folders = folders
        self._files: dict[Path, EventFile] = {}
        self._seen: deque[Event] = deque(maxlen=_REMEMBERED)

    def new(self) -> Iterator[Event]:
        """What was stored since the last call, by time; of several runs under way, what all stored comes once."""
        for folder in self._folders():
            self._files.setdefault(folder, EventFile(folder / "events.jsonl"))
        streams = [file.new() for file in self._files.values()]
        if len(streams) == 1:
            yield from streams[0]
            return
        # Sorted, not merged: a clock that was set back while a run was written would upset a merge.
        for event in sorted((event for stream in streams for event in stream), key=lambda event: event.time_s):
            if not hasattr(event, "run"):
                if event in self._seen:
                    continue
                self._seen.append(event)
            yield event


__all__ = ["EventFile", "Following"]
