"""A proxy on loopback that spoils what passes: whole messages by their type, or bytes by their number.

It stands between a master and a worker, reads the plain protocol's frames with `protocol.frames`' layout, and does one
thing to them. What it does is decided by a `Fault`, which the test writes.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, Protocol

import msgspec

from protocol.frames import PRELUDE_BYTES, Kind

_LENGTHS = struct.Struct("<4sBBHIQ")  # magic, version, kind, flags, header_bytes, body_bytes
Deed = Literal["lost", "repeated", "late", "cut"]


class Fault(Protocol):
    """What happens to bytes on their way."""

    def pass_on(self, source: Callable[[int], bytes], sink: Callable[[bytes], None]) -> bool:
        """Read something from the source and write what becomes of it to the sink. False: the connection ends."""


@dataclass
class ToMessage:
    """One deed to one message: the `nth` of that type, in whichever direction such messages go.

    Attributes:
        kind: the type's name on the wire.
        late_s: how long a late one is held back, and all that is behind it.
        done: whether it has happened.
    """

    kind: str
    deed: Deed
    nth: int = 1
    late_s: float = 0.5
    done: threading.Event = field(default_factory=threading.Event)
    _seen: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def pass_on(self, source: Callable[[int], bytes], sink: Callable[[bytes], None]) -> bool:
        prelude = source(PRELUDE_BYTES)
        if len(prelude) < PRELUDE_BYTES:
            sink(prelude)
            return False
        _, _, kind, _, header_bytes, body_bytes = _LENGTHS.unpack_from(prelude)
        payload = source(header_bytes if kind == Kind.MESSAGE else body_bytes)
        frame = prelude + payload
        if kind != Kind.MESSAGE or not self._is_its_turn(payload):
            sink(frame)
            return True
        self.done.set()
        if self.deed == "late":
            time.sleep(self.late_s)  # the fault itself
            sink(frame)
        elif self.deed == "repeated":
            sink(frame + frame)
        elif self.deed == "cut":
            sink(frame[: len(frame) - len(payload) // 2 - 1])
            return False
        return True

    def _is_its_turn(self, header: bytes) -> bool:
        if msgspec.msgpack.decode(header)["m"]["type"] != self.kind:
            return False
        with self._lock:
            self._seen += 1
            return self._seen == self.nth


@dataclass
class BitFlips:
    """One flipped bit in every `every_bytes`, both directions counted together."""

    every_bytes: int
    flips: int = 0
    _passed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def pass_on(self, source: Callable[[int], bytes], sink: Callable[[bytes], None]) -> bool:
        data = bytearray(source(-1))
        with self._lock:
            before, self._passed = self._passed, self._passed + len(data)
            due = (before // self.every_bytes + 1) * self.every_bytes
            if due < self._passed:
                data[due - before] ^= 1 << (self.flips % 8)
                self.flips += 1
        sink(bytes(data))
        return bool(data)


@dataclass
class Slow:
    """A line of `bytes_per_s` in each direction, whose bytes come in small pieces."""

    bytes_per_s: float

    def pass_on(self, source: Callable[[int], bytes], sink: Callable[[bytes], None]) -> bool:
        data = source(-1)
        for start in range(0, len(data), 4096):
            piece = data[start : start + 4096]
            time.sleep(len(piece) / self.bytes_per_s)  # the fault itself
            sink(piece)
        return bool(data)


@dataclass
class Stall:
    """After so many bytes nothing passes any more, though both connections stay open; once."""

    after_bytes: int
    done: threading.Event = field(default_factory=threading.Event)
    _passed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def pass_on(self, source: Callable[[int], bytes], sink: Callable[[bytes], None]) -> bool:
        data = source(-1)
        with self._lock:
            self._passed += len(data)
            stalls = self._passed > self.after_bytes and not self.done.is_set()
            if stalls:
                self.done.set()
        if stalls:
            while data:  # swallowed, until one side gives up
                data = source(-1)
            return False
        sink(data)
        return bool(data)


class FaultyProxy:
    """Between any masters and one worker's port; every connection meets the same fault object.

    Attributes:
        port: where masters find the worker now.
        connections: how many there have been.
    """

    def __init__(self, target: int, fault: Fault) -> None:
        self.connections = 0
        self._target = target
        self._fault = fault
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def close(self) -> None:
        """Accept no more, and cut what is connected."""
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                master, _ = self._listener.accept()
                worker = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self.connections += 1
            self._open += [master, worker]
            for end in (master, worker):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else small frames wait for each other
            for source, sink in ((master, worker), (worker, master)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while self._fault.pass_on(lambda count: _read(source, count), sink.sendall):
                pass
        for end in (source, sink):  # half a connection is of no use to either side
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _read(source: socket.socket, count: int) -> bytes:
    """`count` bytes, or fewer at the end; -1: whatever is there, at least one."""
    if count < 0:
        return source.recv(1 << 16)
    kept = bytearray()
    while len(kept) < count and (data := source.recv(count - len(kept))):
        kept += data
    return bytes(kept)
