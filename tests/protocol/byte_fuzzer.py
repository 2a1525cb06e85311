"""A seeded fuzzer of bytes: streams that are almost right, to a connection in each of its states.

A stream is what a peer would rightly say from some state on, spoiled: bits flipped, bytes cut out, repeated,
put in or taken from elsewhere, lengths and numbers replaced by the ones that break parsers, and, half of the
time, all checksums made right again, so that what is spoiled reaches what lies behind them.
"""

from __future__ import annotations

import copy
import random
import struct
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from protocol.buffers import pack
from protocol.connection import Connection
from protocol.errors import ProtocolError
from protocol.frames import PRELUDE_BYTES, Kind, Limits, checksum, message_frame
from protocol.headers import decode_handshake, encode_header
from protocol.messages import Message
from protocol.states import Role

LIMITS = Limits(header_bytes=64 << 10, body_bytes=256 << 10)
TELLING = (0, 1, 31, 32, 255, 4095, 4096, 4097, 65535, 65536, 1 << 20, (1 << 20) + 1, 1 << 31, (1 << 32) - 1)
LARGE = (*TELLING, 1 << 32, (1 << 53) + 1, 1 << 63, (1 << 64) - 1)
LENGTHS = {8: "<I", 12: "<Q", 20: "<I"}
"""Where a prelude holds its header's length, its body's, and its number."""


@dataclass(frozen=True)
class Corpus:
    """A connection in some state, and what its peer may say next: the frames of each message.

    Attributes:
        mac: the proof that is due from the peer; empty where none is.
        seq: the number that the peer's next message has.
    """

    at: Connection
    messages: tuple[tuple[bytes, ...], ...]
    mac: bytes
    seq: int

    def connection(self) -> Connection:
        """A connection just like ``at``: what a handshake of 100 us leads to, without its time."""
        made = copy.copy(self.at)
        made._reader = copy.copy(self.at._reader)
        made._reader._scratch = memoryview(bytearray(len(made._reader._scratch)))
        made._handshake_out = bytearray()
        return made


@dataclass
class Outcome:
    """Of many streams: how many, how many bytes, what they led to."""

    streams: int = 0
    nbytes: int = 0
    ended: Counter[str] = field(default_factory=Counter)


class ByteFuzzer:
    """Makes streams for every corpus in turn; the same seed makes the same streams."""

    def __init__(self, wire: Any, seed: int) -> None:
        self.outcome = Outcome()
        self._random = random.Random(seed)
        self._info = wire.info
        self._corpora = corpora(wire)

    def run_for(self, seconds_s: float) -> Outcome:
        """Streams until the time is over."""
        end_s = time.perf_counter() + seconds_s
        while time.perf_counter() < end_s:
            for _ in range(50):
                for corpus in self._corpora:
                    self._stream(corpus)
        return self.outcome

    def _stream(self, corpus: Corpus) -> None:
        connection, data = corpus.connection(), self._spoiled(corpus)
        self.outcome.streams += 1
        self.outcome.nbytes += len(data)
        whole = 0
        try:
            for part in self._cut(data):
                whole += feed(connection, part)
            end = "waits"
        except ProtocolError as error:
            end = type(error).__name__
        self.outcome.ended[end] += 1
        if corpus.at.is_open:
            return
        assert not whole or connection.is_open, "a message came out of a handshake"
        if connection.is_open:  # then the proof came through unspoiled, and what a worker said beside it
            assert corpus.mac
            assert corpus.mac in data
            assert connection.peer in (None, self._info)

    def _cut(self, data: bytes) -> tuple[bytes, ...]:
        if self._random.random() < 0.7:
            return (data,)
        at = self._random.randint(0, len(data))
        return data[:at], data[at:]

    def _spoiled(self, corpus: Corpus) -> bytes:
        rng = self._random
        chosen = rng.choices(corpus.messages, k=1 + (rng.random() < 0.3))
        frames = [bytearray(frame) for message in chosen for frame in message]
        for _ in range(1 + (rng.random() < 0.3)):
            rng.choice(SPOILERS)(rng, frames)
        if rng.random() < 0.6:
            make_right(frames, corpus.seq)
        return b"".join(frames)


def feed(connection: Connection, data: bytes) -> int:
    """Receive ``data``; how many messages came out."""
    found, start = 0, 0
    while start < len(data):
        target = connection.receive_buffer()
        size = min(len(target), len(data) - start)
        target[:size] = data[start : start + size]
        start += size
        found += len(connection.received(size))
    return found


def make_right(frames: list[bytearray], seq: int) -> None:
    """Give each frame the number that is due and the checksums of what it holds."""
    seq -= 1
    for frame in frames:
        if len(frame) < PRELUDE_BYTES:
            continue
        seq += frame[5] == Kind.MESSAGE
        struct.pack_into("<I", frame, 20, max(seq, 0))
        struct.pack_into("<I", frame, 24, checksum(bytes(frame[PRELUDE_BYTES:])))
        struct.pack_into("<I", frame, 28, checksum(bytes(frame[:28])))


def _flip(rng: random.Random, frames: list[bytearray]) -> None:
    frame = rng.choice(frames)
    if frame:
        frame[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)


def _set(rng: random.Random, frames: list[bytearray]) -> None:
    frame = rng.choice(frames)
    if frame:
        frame[rng.randrange(len(frame))] = rng.choice((0, 0x7F, 0x80, 0x90, 0xC0, 0xC1, 0xDB, 0xDD, 0xDF, 0xFF))


def _length(rng: random.Random, frames: list[bytearray]) -> None:
    frame = rng.choice(frames)
    offset, form = rng.choice(list(LENGTHS.items()))
    if len(frame) >= PRELUDE_BYTES:
        struct.pack_into(form, frame, offset, rng.choice(TELLING if form == "<I" else LARGE))


def _cut(rng: random.Random, frames: list[bytearray]) -> None:
    frame = rng.choice(frames)
    start = rng.randint(0, len(frame))
    del frame[start : rng.randint(start, len(frame))]


def _repeat(rng: random.Random, frames: list[bytearray]) -> None:
    frame = rng.choice(frames)
    start = rng.randint(0, len(frame))
    end = min(len(frame), start + rng.randint(0, 64))
    frame[start:start] = frame[start:end]


def _put_in(rng: random.Random, frames: list[bytearray]) -> None:
    frame = rng.choice(frames)
    at = rng.randint(0, len(frame))
    frame[at:at] = rng.randbytes(rng.randint(1, 40))


def _swap(rng: random.Random, frames: list[bytearray]) -> None:
    rng.shuffle(frames)


def _resized(rng: random.Random, frames: list[bytearray]) -> None:
    """A header spoiled in length, its prelude told so: what lies behind the framing sees it whole."""
    frame = rng.choice(frames)
    if len(frame) <= PRELUDE_BYTES or frame[5] != 1:
        return
    header = frame[PRELUDE_BYTES:]
    at = rng.randint(0, len(header))
    header[at:at] = rng.choice((b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\x91" * 200, rng.randbytes(9)))
    frame[PRELUDE_BYTES:] = header
    struct.pack_into("<I", frame, 8, len(header))


SPOILERS = (_flip, _set, _length, _cut, _repeat, _put_in, _swap, _resized)


def corpora(wire: Any) -> list[Corpus]:
    """One for each state in which a side waits for its peer: four of strangers, two of peers at work."""
    identity = replace(wire.identity, codecs=("lz4",))
    master, worker = (Connection(role, identity, LIMITS) for role in Role)
    found, sides = [], (worker, master)
    strangers = tuple((message_frame(encode_header(message, []), 0, 0),) for message in wire.handshake)
    for step in range(4):
        said = sides[1 - step % 2].handshake_bytes()
        listener = sides[step % 2]
        at = copy.copy(listener)
        at._reader = copy.copy(listener._reader)
        mac = getattr(decode_handshake(said[PRELUDE_BYTES:]), "mac", b"")
        found.append(Corpus(at, (*strangers, (said,), (said,)), mac, step // 2))
        feed(listener, said)
    for listener, speaker, traffic in (
        (worker, master, wire.from_master + wire.from_either[:2]),
        (master, worker, wire.from_worker + wire.from_either[:2]),
    ):
        listener.receive_buffer()  # the larger one of an open connection
        found.append(Corpus(listener, tuple(_frames(speaker, *each) for each in traffic), b"", 2))
    return found


def _frames(speaker: Connection, message: Message, arrays: list[Any]) -> tuple[bytes, ...]:
    found = [speaker.send(message, pack(arrays))]
    while (piece := speaker.next_piece()) is not None:
        found.append(piece[0] + bytes(piece[1]))
    return tuple(found)
