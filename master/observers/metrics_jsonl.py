"""metrics.jsonl (one object a round) and events.jsonl (one object an event): append-only, never torn.

Lines are written whole, those of one moment (`flush`) at once. If the disk refuses them, the file is cut back to its
last whole line and the error goes to the event stream. nan and inf are written as Python's json does (`NaN`,
`Infinity`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from master.events import Event, decode, encode
from master.observers.round_records import RoundRecords
from protocol.errors import InputError


class JsonLines:
    """An append-only file of JSON objects, one a line. `offset_bytes` is where its last whole line ends."""

    def __init__(self, path: Path, *, keep_bytes: int | None = None) -> None:
        """Open to append. A torn last line is cut off, and all beyond `keep_bytes` where that is given."""
        self.path = path
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._buffer: list[bytes] = []
        whole = path.read_bytes().rfind(b"\n") + 1
        self.offset_bytes = whole if keep_bytes is None else min(whole, keep_bytes)
        os.ftruncate(self._descriptor, self.offset_bytes)

    def write(self, record: Mapping[str, Any], *, flush: bool = True) -> None:
        """Append one object. Without `flush` it may wait in memory for the next one."""
        self._buffer.append(_line(record))
        if flush or len(self._buffer) >= 256:
            self.flush()

    def flush(self) -> None:
        """Hand everything to the kernel. OSError: nothing of it is in the file."""
        if self._descriptor is None or not self._buffer:
            return
        content, self._buffer = b"".join(self._buffer), []
        written = 0
        try:
            while written < len(content):
                at = self.offset_bytes + written
                written += os.pwrite(self._descriptor, memoryview(content)[written:], at)
        except OSError:
            os.ftruncate(self._descriptor, self.offset_bytes)
            raise
        self.offset_bytes += written

    def close(self) -> None:
        """Flush, and let the file go. Twice is once."""
        try:
            self.flush()
        finally:
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


class MetricsLog:
    """metrics.jsonl of one run: `{"round": 12, "clients": 10, ...}`, in round order."""

    def __init__(self, path: Path, run: str, *, after_round: int | None = None) -> None:
        """Go on after `after_round` (a resume): lines of later rounds are cut off; None keeps all."""
        keep_bytes = None if after_round is None else _end_of_round(path, after_round)
        self._lines = JsonLines(path, keep_bytes=keep_bytes)
        self._records = RoundRecords(run)
        self.last_round: int | None = None  # of the lines written by this object

    @property
    def offset_bytes(self) -> int:
        """Where the last whole line ends."""
        return self._lines.offset_bytes

    def observe(self, event: Event) -> None:
        """Take the lines that `event` completes."""
        for round_number, metrics in self._records.take(event):
            self._lines.write({"round": round_number, **metrics}, flush=False)
            self.last_round = round_number

    def flush(self) -> None:
        """Write them."""
        self._lines.flush()

    def close(self) -> None:
        """Let the file go."""
        self._lines.close()


class EventLog:
    """events.jsonl of one run: what is its own, and what concerns all runs (workers, warnings)."""

    def __init__(self, path: Path, run: str) -> None:
        self._lines = JsonLines(path)
        self._run = run

    def observe(self, event: Event) -> None:
        """Take the event."""
        if getattr(event, "run", self._run) == self._run:
            self._lines.write(encode(event), flush=False)

    def flush(self) -> None:
        """Write what was taken."""
        self._lines.flush()

    def close(self) -> None:
        """Let the file go."""
        self._lines.close()


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


def _end_of_round(path: Path, after_round: int) -> int:
    """The offset behind the line of the last round up to `after_round`."""
    end = 0
    for record, offset in _records(path):
        if record.get("round", after_round + 1) > after_round:
            break
        end = offset
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
