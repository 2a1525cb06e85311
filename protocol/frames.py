"""Frames: how bytes on a stream become headers and bodies, with no socket in sight.

A frame is a prelude of 32 bytes, little endian, and what it announces:

    magic 'FLSP' | version u8 | kind u8 | flags u16 = 0 | header_bytes u32 | body_bytes u64 | seq u32
    | checksum u32 of what follows the prelude | checksum u32 of the 28 bytes before

* ``MESSAGE``: a msgpack header follows. ``body_bytes`` announces the body, which comes in pieces after it.
  ``seq`` counts the messages of this direction, so that a lost, repeated or moved message is noticed.
* ``PIECE``: ``body_bytes`` bytes of the body of message ``seq`` follow: 1 MiB, or what is left of the body.

The prelude has a checksum of its own, so a flipped bit in a length can neither make anyone wait for bytes
that never come nor take memory. Between the pieces of a body, messages without a body may pass: heartbeats
do.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import xxhash

from protocol.errors import FrameError, LimitError

MAGIC = b"FLSP"
VERSION = 1
PIECE_BYTES = 1 << 20
_FIELDS = struct.Struct("<4sBBHIQII")
_CHECK = struct.Struct("<I")
PRELUDE_BYTES = _FIELDS.size + _CHECK.size
SCRATCH_BYTES = 64 << 10
STRANGER_SCRATCH_BYTES = 4 << 10
_SEQ = 1 << 32


class Kind(IntEnum):
    """What follows a prelude."""

    MESSAGE = 1
    PIECE = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """What a peer may announce; everything above is refused before memory is taken for it.

    ``handshake_header_bytes`` is what all headers before both sides have proved themselves may take together
    (no body is legal then; over TLS its own handshake may take ``tls_handshake_bytes`` beside them), the
    others hold after it. ``body_bytes`` bounds a body on the wire and, once more, what it decompresses to.
    """

    handshake_header_bytes: int = 4 << 10
    tls_handshake_bytes: int = 32 << 10
    header_bytes: int = 1 << 20
    body_bytes: int = 2 << 30


class Prelude(NamedTuple):
    """The announced lengths and checksum of one frame."""

    kind: Kind
    header_bytes: int
    body_bytes: int
    seq: int
    payload_check: int


class Header(NamedTuple):
    """A whole message header came in; ``body_bytes`` of body will follow in pieces."""

    seq: int
    header: bytes
    body_bytes: int


class BodyComplete(NamedTuple):
    """The last piece of the body of message ``seq`` has come in, every piece with the right checksum."""

    seq: int


def checksum(data: bytes | memoryview) -> int:
    """Low 32 bits of XXH3 (Y. Collet): at 16 GB/s a core it costs little beside a socket; crc32 does not."""
    return xxhash.xxh3_64_intdigest(data) & 0xFFFFFFFF


def _prelude(kind: Kind, lengths: tuple[int, int], seq: int, payload: bytes | memoryview) -> bytes:
    header_bytes, body_bytes = lengths
    check = checksum(payload)
    fields = _FIELDS.pack(MAGIC, VERSION, kind, 0, header_bytes, body_bytes, seq % _SEQ, check)
    return fields + _CHECK.pack(checksum(fields))


def message_frame(header: bytes, body_bytes: int, seq: int) -> bytes:
    """The frame of message ``seq``, which announces ``body_bytes`` of body."""
    return _prelude(Kind.MESSAGE, (len(header), body_bytes), seq, header) + header


def piece_prelude(piece: bytes | memoryview, seq: int) -> bytes:
    """What goes before ``piece`` of the body of message ``seq``."""
    return _prelude(Kind.PIECE, (0, len(piece)), seq, piece)


def foreign(start: bytes) -> FrameError:
    """What to say of a peer that begins with ``start``."""
    if start.startswith((b"GET ", b"HEAD", b"POST", b"PUT ", b"OPTI", b"HTTP")):
        return FrameError("the peer speaks HTTP; this port speaks the flspan protocol")
    if start.startswith(b"\x16\x03"):
        return FrameError("the peer speaks TLS and this side does not: give both sides the same TLS options")
    return FrameError(f"the peer does not speak the flspan protocol (it began with {start[:4]!r})")


def _check_start(start: bytes) -> None:
    """Refuse a foreign peer by whatever it has sent so far, be it less than a prelude."""
    if start[:4] != MAGIC[: len(start)]:
        raise foreign(start)
    if len(start) > 4 and start[4] != VERSION:
        raise FrameError(
            f"the peer speaks version {start[4]} of the protocol and this side version {VERSION}: "
            "install the same flspan on both sides"
        )


def parse_prelude(view: bytes | memoryview) -> Prelude:
    """Read a prelude of 32 bytes.

    Raises:
        FrameError: wrong magic, version, checksum, kind, flags, or a header length on a piece.
    """
    _check_start(bytes(view[:5]))
    fields = bytes(view[: _FIELDS.size])
    (check,) = _CHECK.unpack_from(view, _FIELDS.size)
    if checksum(fields) != check:
        raise FrameError("the checksum of a frame's prelude does not match: a byte was changed on the way")
    _, _, kind, flags, header_bytes, body_bytes, seq, payload_check = _FIELDS.unpack(fields)
    if flags:
        raise FrameError(f"a frame has flags {flags:#06x}; this version knows none")
    if kind == Kind.MESSAGE:
        return Prelude(Kind.MESSAGE, header_bytes, body_bytes, seq, payload_check)
    if kind == Kind.PIECE and header_bytes == 0:
        return Prelude(Kind.PIECE, 0, body_bytes, seq, payload_check)
    raise FrameError(f"no frame has kind {kind} with a header of {header_bytes} bytes")


class FrameReader:
    """Cuts a stream into headers and bodies; a body goes straight into the memory it will stay in.

    The owner asks :meth:`buffer` where the next bytes should go and says with :meth:`frames` how many came.
    Small things are parsed in bulk out of a scratch (``scratch_bytes``: 4 KiB for a stranger, which the owner
    makes 64 KiB); a header that does not fit in what has come, and every piece of a body, is received in its
    own place. The owner answers a :class:`Header` that announces a body with :meth:`expect_body` before it
    takes the next frame; it may leave off in between and go on later with ``frames(0)``.
    """

    def __init__(self, header_limit: int, body_limit: int) -> None:
        self.header_limit = header_limit
        self.body_limit = body_limit
        self.scratch_bytes = STRANGER_SCRATCH_BYTES
        self._scratch = memoryview(bytearray(self.scratch_bytes))
        self._start = 0
        self._end = 0
        self._next_seq = 0
        self._prelude: Prelude | None = None  # of the frame whose payload is coming in
        self._target = self._scratch[:0]  # where that payload goes
        self._filled = 0
        self._body: memoryview | None = None
        self._body_filled = 0
        self._body_seq = 0

    @property
    def mid_frame(self) -> bool:
        """Whether the stream would be cut in the middle of something if it ended here."""
        return self._prelude is not None or self._end > self._start or self._body is not None

    @property
    def expects_body(self) -> bool:
        """Whether pieces of a body are still to come."""
        return self._body is not None

    def buffer(self) -> memoryview:
        """Where the next bytes of the stream go; never empty."""
        if self._prelude is not None:
            return self._target[self._filled :]
        if self._start or len(self._scratch) < self.scratch_bytes:  # bring what is left to the front
            left = bytes(self._scratch[self._start : self._end])
            if len(self._scratch) < self.scratch_bytes:
                self._scratch = memoryview(bytearray(self.scratch_bytes))
            self._scratch[: len(left)] = left
            self._start, self._end = 0, len(left)
        return self._scratch[self._end :]

    def expect_body(self, seq: int, body: np.ndarray) -> None:
        """Receive the pieces of message ``seq`` into ``body`` (uint8, not empty)."""
        self._body = body.data
        self._body_filled = 0
        self._body_seq = seq

    def frames(self, nbytes: int) -> Iterator[Header | BodyComplete]:
        """What became complete now that ``nbytes`` more are in :meth:`buffer`; to be run to its end.

        Raises:
            FrameError: bytes that are no frame, a wrong checksum, a message or piece out of order.
            LimitError: a length above the limits.
        """
        if self._prelude is None:
            self._end += nbytes
        else:
            self._filled += nbytes
        while True:
            if self._prelude is None and not self._begin():
                return
            if self._filled < len(self._target):
                return
            frame = self._finish()
            if frame is not None:
                yield frame

    def _begin(self) -> bool:
        """Take a prelude and what follows it out of the scratch; false if no whole prelude is there."""
        available = self._end - self._start
        if available < PRELUDE_BYTES:
            _check_start(bytes(self._scratch[self._start : self._start + min(available, 5)]))
            return False
        prelude = parse_prelude(self._scratch[self._start : self._start + PRELUDE_BYTES])
        self._start += PRELUDE_BYTES
        self._target = self._admit_message(prelude) if prelude.kind is Kind.MESSAGE else self._admit(prelude)
        self._prelude = prelude
        self._filled = min(self._end - self._start, len(self._target))
        self._target[: self._filled] = self._scratch[self._start : self._start + self._filled]
        self._start += self._filled
        return True

    def _admit_message(self, prelude: Prelude) -> memoryview:
        if prelude.header_bytes > self.header_limit:
            raise LimitError(f"a header of {prelude.header_bytes} bytes was announced; {self.header_limit} are allowed")
        if prelude.body_bytes > self.body_limit:
            raise LimitError(f"a body of {prelude.body_bytes} bytes was announced; {self.body_limit} are allowed here")
        if prelude.seq != self._next_seq:
            raise FrameError(
                f"message {prelude.seq} came where {self._next_seq} was due: one was lost, repeated or moved"
            )
        if prelude.body_bytes and self._body is not None:
            raise FrameError(f"a second body was announced before that of message {self._body_seq} was whole")
        self._next_seq = (self._next_seq + 1) % _SEQ
        return memoryview(bytearray(prelude.header_bytes))

    def _admit(self, prelude: Prelude) -> memoryview:
        if self._body is None or prelude.seq != self._body_seq:
            raise FrameError(f"a piece of a body of message {prelude.seq} came that nobody announced")
        due = min(PIECE_BYTES, len(self._body) - self._body_filled)
        if prelude.body_bytes != due:
            raise FrameError(f"a piece of {prelude.body_bytes} bytes came where {due} were due")
        return self._body[self._body_filled : self._body_filled + due]

    def _finish(self) -> Header | BodyComplete | None:
        prelude, target = self._prelude, self._target
        assert prelude is not None
        self._prelude, self._target, self._filled = None, self._scratch[:0], 0
        if checksum(target) != prelude.payload_check:
            raise FrameError(f"the checksum of message {prelude.seq} does not match: a byte was changed on the way")
        if prelude.kind is Kind.MESSAGE:
            return Header(prelude.seq, bytes(target), prelude.body_bytes)
        self._body_filled += prelude.body_bytes
        assert self._body is not None
        if self._body_filled < len(self._body):
            return None
        self._body = None
        return BodyComplete(prelude.seq)
