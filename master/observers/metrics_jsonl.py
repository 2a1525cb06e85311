"""metrics.jsonl (one object a round) and events.jsonl (one object an event): append-only, never torn.

Lines are written whole, those of one moment (`flush`) at once. If the disk refuses them, the file is cut back to its
last whole line, and they wait for the next moment; that is said once. nan and inf are written as Python's json does
(`NaN`, `Infinity`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import msgspec

from master.events import Event, decode, encode
from master.observers.round_records import RoundRecords
from master.runs import sync_folder
from protocol.errors import InputError

_WAITING_BYTES = 16 << 20
"""So much may wait for a disk that refuses it."""


class JsonLines:
    """An append-only file of JSON objects, one a line.

    Attributes:
        offset_bytes: where its last whole line ends.
        waiting_bytes: of the lines that are not in the file yet.
    """

    def __init__(self, path: Path, *, keep_bytes: int | None = None) -> None:
        """Open to append. A torn last line is cut off, and all beyond `keep_bytes` where that is given."""
        self.path = path
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._closing = Lock()  # `sync` is another thread's
        self._is_placed = False
        self._buffer: list[bytes] = []
        self.waiting_bytes = 0
        whole = path.read_bytes().rfind(b"\n") + 1
        self.offset_bytes = whole if keep_bytes is None else min(whole, keep_bytes)
        os.ftruncate(self._descriptor, self.offset_bytes)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one object with the next `flush`."""
        self._buffer.append(_line(record))
        self.waiting_bytes += len(self._buffer[-1])

    def flush(self) -> None:
        """Hand everything to the kernel. OSError: nothing of it is in the file, and it is kept for the next time."""
        if self._descriptor is None or not self._buffer:
            return
        content = b"".join(self._buffer)
        written = 0
        try:
            while written < len(content):
                at = self.offset_bytes + written
                written += os.pwrite(self._descriptor, memoryview(content)[written:], at)
        except OSError:
            os.ftruncate(self._descriptor, self.offset_bytes)
            raise
        self.offset_bytes += written
        self.forget()

    def forget(self) -> None:
        """Let go of what waits."""
        self._buffer, self.waiting_bytes = [], 0

    def sync(self) -> None:
        """Return when the lines that were flushed are on the disk; in any thread. OSError: they may not be."""
        with self._closing:
            if self._descriptor is None:
                raise OSError(f"{self.path} is not written any more")
            os.fsync(self._descriptor)
            if not self._is_placed:  # it may have been made by this start: its name must last as well
                sync_folder(self.path.parent)
                self._is_placed = True

    def close(self) -> None:
        """Flush, and let the file go. Twice is once."""
        try:
            self.flush()
        finally:
            with self._closing:
                descriptor, self._descriptor = self._descriptor, None
                if descriptor is not None:
                    os.close(descriptor)


def _line(record: Mapping[str, Any]) -> bytes:
    try:
        line = _ENCODER.encode(record)
    except (TypeError, OverflowError):  # what only Python's json knows: integers of any size
        line = b"null"
    if b"null" in line:  # it is a None, or nan or inf, for which Python's json has words
        line = json.dumps(record, separators=(",", ":")).encode()
    return line + b"\n"


_ENCODER = msgspec.json.Encoder()  # ten times as fast as Python's


class _RunLines:
    """One of a run's two files of lines. A disk that refuses some costs nothing if it takes them later.

    Args:
        warn: told when lines begin to wait, when they are written after all, and when they are lost.

    Attributes:
        is_behind: not all lines are in the file.
    """

    def __init__(self, lines: JsonLines, warn: Callable[[str], None]) -> None:
        self.path = lines.path
        self._lines = lines
        self._warn = warn
        self._is_lost = False
        self.is_behind = False

    @property
    def offset_bytes(self) -> int:
        """Where the last whole line ends."""
        return self._lines.offset_bytes

    def flush(self) -> None:
        """Write what was taken, or keep it for the next time; what is too much to be kept ends the file."""
        if self._is_lost:
            self._lines.forget()
            return
        was_behind = self.is_behind
        try:
            self._lines.flush()
            self.is_behind = False
            if was_behind:
                self._warn(f"{self.path} is written again, and has all its lines")
        except OSError as error:
            self.is_behind = True
            self._is_lost = self._lines.waiting_bytes > _WAITING_BYTES
            if self._is_lost:
                self._lines.forget()
                self._warn(f"{self.path} is given up: more lines wait than can be kept: {error.strerror}")
            elif not was_behind:
                self._warn(f"{self.path} cannot be written: {error.strerror}; its lines are kept and tried again")

    def close(self) -> None:
        """Let the file go. OSError: its last lines are lost."""
        self._lines.close()


class MetricsLog(_RunLines):
    """metrics.jsonl of one run: `{"round": 12, "clients": 10, ...}`, in round order.

    Attributes:
        last_round: of the lines in the file; None before the first one that this object has written.
    """

    def __init__(
        self, path: Path, run: str, *, after_round: int | None = None, warn: Callable[[str], None] = lambda text: None
    ) -> None:
        """Go on after `after_round` (a resume): lines of later rounds are cut off; None keeps all."""
        keep_bytes = None if after_round is None else _end_of_round(path, after_round)
        super().__init__(JsonLines(path, keep_bytes=keep_bytes), warn)
        self._records = RoundRecords(run)
        self._taken: int | None = None
        self.last_round: int | None = None

    def observe(self, event: Event) -> None:
        """Take the lines that `event` completes."""
        for round_number, metrics in self._records.take(event):
            self._lines.write({"round": round_number, **metrics})
            self._taken = round_number

    def flush(self) -> None:
        """Write them, as far as the disk takes them."""
        super().flush()
        if not self.is_behind:
            self.last_round = self._taken

    def sync(self) -> None:
        """Return when all lines up to `last_round` are on the disk; in any thread. OSError: they may not be."""
        self._lines.sync()


class EventLog(_RunLines):
    """events.jsonl of one run: what is its own, and what concerns all runs (workers, warnings)."""

    def __init__(self, path: Path, run: str, *, warn: Callable[[str], None] = lambda text: None) -> None:
        super().__init__(JsonLines(path), warn)
        self._run = run

    def observe(self, event: Event) -> None:
        """Take the event."""
        if getattr(event, "run", self._run) == self._run:
            self._lines.write(encode(event))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl; a torn last line is left out. InputError names a damaged line."""
    return [record for record, _ in _records(path)]


def read_events(path: Path) -> Iterator[Event]:
    """The events of events.jsonl, to replay, without a torn last line. InputError names a damaged line."""
    for number, (record, _) in enumerate(_records(path), start=1):
        try:
            event = decode(record)
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from error
        yield event


def last_round(path: Path) -> int:
    """The round of the last line, -1 where there is none. What follows a damaged line counts as gone."""
    found = -1
    try:
        for record, _ in _records(path):
            found = int(record.get("round", found))
    except InputError:
        pass  # a power cut may leave zeros where lines were to be
    return found


def _end_of_round(path: Path, after_round: int) -> int:
    """The offset behind the line of the last round up to `after_round`."""
    end = 0
    if after_round < 0:
        return end
    for record, offset in _records(path):
        number = record.get("round", after_round + 1)
        if number <= after_round:
            end = offset
        if number >= after_round:  # whatever follows is cut off, damaged or not
            break
    return end


def _records(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Each whole line's object, and the offset behind it. A file that is not there has none."""
    if not path.exists():
        return
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            try:
                record = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}, line {number} is no JSON: {error}") from error
            if not isinstance(record, dict):
                raise InputError(f"{path}, line {number} is no JSON object")
            yield record, offset
