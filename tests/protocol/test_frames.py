"""protocol.frames: bytes become headers and bodies, or an error, whatever the cuts and the changes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import frames
from protocol.errors import FrameError, LimitError
from protocol.frames import (
    PIECE_BYTES,
    PRELUDE_BYTES,
    BodyComplete,
    FrameReader,
    Header,
    message_frame,
    parse_prelude,
    piece_prelude,
)


class Reading:
    """The owner of a FrameReader: gives it bytes and memory, collects headers with their bodies."""

    def __init__(self, reader: FrameReader) -> None:
        self.reader = reader
        self.found: list[tuple[bytes, bytes]] = []
        self.pending = (b"", np.empty(0, np.uint8))

    def take(self, data: bytes, sizes: list[int]) -> list[tuple[bytes, bytes]]:
        view, turn = memoryview(data), 0
        while view:
            target = self.reader.buffer()
            size = min(len(target), len(view), sizes[turn % len(sizes)])
            turn += 1
            target[:size] = view[:size]
            view = view[size:]
            for frame in self.reader.frames(size):
                self.on_frame(frame)
        return self.found

    def on_frame(self, frame: Header | BodyComplete) -> None:
        if isinstance(frame, BodyComplete):
            self.found.append((self.pending[0], bytes(self.pending[1])))
        elif frame.body_bytes:
            self.pending = (frame.header, np.empty(frame.body_bytes, np.uint8))
            self.reader.expect_body(frame.seq, self.pending[1])
        else:
            self.found.append((frame.header, b""))


def read(reader: FrameReader, data: bytes, sizes: list[int]) -> list[tuple[bytes, bytes]]:
    """Every header and body in ``data``, received in runs of ``sizes``, over and over."""
    return Reading(reader).take(data, sizes)


def stream(messages: list[tuple[bytes, bytes]]) -> bytes:
    """The bytes that carry ``messages``."""
    out = b""
    for seq, (header, body) in enumerate(messages):
        out += message_frame(header, len(body), seq)
        for start in range(0, len(body), PIECE_BYTES):
            piece = body[start : start + PIECE_BYTES]
            out += piece_prelude(piece, seq) + piece
    return out


MESSAGES = st.lists(st.tuples(st.binary(max_size=80), st.binary(max_size=300)), max_size=6)


@given(MESSAGES, st.lists(st.integers(1, 400), min_size=1, max_size=20))
def test_any_cut_of_a_stream_gives_the_same_messages(messages: list[tuple[bytes, bytes]], sizes: list[int]) -> None:
    """However the bytes are cut, the same headers and bodies come out, and nothing is left over."""
    reader = FrameReader(1 << 20, 1 << 20)
    assert read(reader, stream(messages), sizes) == messages
    assert not reader.mid_frame


def test_a_header_larger_than_the_scratch_and_a_body_of_many_pieces_arrive() -> None:
    """Lengths beyond the scratch and beyond a piece go through, cut at sizes that fit neither."""
    messages = [(b"h" * 200_000, bytes(range(256)) * 9000), (b"", b"x" * PIECE_BYTES), (b"end", b"")]
    reader = FrameReader(1 << 20, 1 << 30)
    assert read(reader, stream(messages), [70_001, 3, 1_000_003]) == messages


@pytest.mark.parametrize("more", [1, PRELUDE_BYTES - 1, PRELUDE_BYTES, PRELUDE_BYTES + 1])
def test_what_comes_behind_a_piece_is_a_prelude_of_any_kind(more: int) -> None:
    """A heartbeat between two pieces, cut anywhere, and a last piece shorter than a prelude: nothing is mixed up."""
    body = bytes(range(256)) * (PIECE_BYTES // 256) + b"short"
    first, last = body[:PIECE_BYTES], body[PIECE_BYTES:]
    head = message_frame(b"header", len(body), 0) + piece_prelude(first, 0) + first
    rest = message_frame(b"ping", 0, 1) + piece_prelude(last, 0) + last + message_frame(b"next", 0, 2)
    reading = Reading(FrameReader(100, len(body)))
    assert reading.take(head + rest[:more], [1 << 21]) == []
    assert reading.take(rest[more:], [1 << 21]) == [(b"ping", b""), (b"header", body), (b"next", b"")]
    assert not reading.reader.mid_frame


def test_half_a_message_gives_nothing_until_the_rest_comes() -> None:
    """At every cut, the first half yields no message and the second completes it."""
    whole = stream([(b"header", b"body"), (b"next", b"")])
    for cut in range(1, len(whole)):
        reading = Reading(FrameReader(100, 100))
        first = len(reading.take(whole[:cut], [7]))
        assert first == (cut >= len(whole) - PRELUDE_BYTES - len(b"next"))
        assert reading.reader.mid_frame == (cut != len(whole) - PRELUDE_BYTES - len(b"next"))
        assert reading.take(whole[cut:], [7]) == [(b"header", b"body"), (b"next", b"")], cut


@pytest.mark.parametrize("bit", range(8))
def test_any_flipped_bit_is_noticed(bit: int) -> None:
    """Each bit of each byte of a stream, flipped, gives a FrameError."""
    whole = stream([(b"header", b"the body"), (b"x", b"")])
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << bit
        with pytest.raises(FrameError):
            read(FrameReader(100, 100), bytes(changed), [1 << 20])


@pytest.mark.parametrize(
    ("start", "says"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP"),
        (b"POST", "HTTP"),
        (b"\x16\x03\x01\x02\x00", "TLS"),
        (b"\x00", "does not speak"),
        (b"FLSX", "does not speak"),
        (b"FLSP\x02", "version 2"),
    ],
)
def test_a_foreign_peer_is_refused_by_its_first_bytes(start: bytes, says: str) -> None:
    """A stranger need not send a whole prelude to be refused, and the error says what it seems to be."""
    with pytest.raises(FrameError, match=says):
        read(FrameReader(100, 100), start, [100])


@pytest.mark.parametrize(("header_bytes", "body_bytes"), [(101, 0), (2**32 - 1, 0), (0, 101), (0, 2**63)])
def test_a_length_over_the_limit_is_refused_before_memory_is_taken(header_bytes: int, body_bytes: int) -> None:
    """A prelude that is right in all but its lengths raises LimitError and allocates next to nothing."""
    data = frames._prelude(frames.Kind.MESSAGE, (header_bytes, body_bytes), 0, b"")
    reader = FrameReader(100, 100)
    tracemalloc.start()
    try:
        with pytest.raises(LimitError):
            read(reader, data, [100])
        assert tracemalloc.get_traced_memory()[1] < 20_000
    finally:
        tracemalloc.stop()


def test_order_is_checked() -> None:
    """A message lost, repeated or moved, a piece nobody announced or of a wrong length: each is refused."""
    first, second = message_frame(b"a", 0, 0), message_frame(b"b", 0, 1)
    long = message_frame(b"c", 10, 0)
    wrong = [
        second,
        first + first,
        first + message_frame(b"c", 0, 2),
        piece_prelude(b"x", 0) + b"x",
        long + piece_prelude(b"x" * 10, 1) + b"x" * 10,
        long + piece_prelude(b"x" * 9, 0) + b"x" * 9,
        long + piece_prelude(b"x" * 11, 0) + b"x" * 11,
        long + piece_prelude(b"", 0),
        long + message_frame(b"d", 10, 1),
    ]
    for data in wrong:
        with pytest.raises(FrameError):
            read(FrameReader(100, 100), data, [1 << 20])


def test_sequence_numbers_wrap() -> None:
    """After 2^32 messages the count begins again, on both sides alike."""
    reader = FrameReader(100, 100)
    reader._next_seq = 2**32 - 1
    data = message_frame(b"last", 0, 2**32 - 1) + message_frame(b"first", 0, 2**32)
    assert [header for header, _ in read(reader, data, [100])] == [b"last", b"first"]


@pytest.mark.parametrize("offset", [5, 6, 7])
def test_unknown_kinds_and_flags_are_refused(offset: int) -> None:
    """A kind or flag of a later version, with right checksums, is refused."""
    data = bytearray(message_frame(b"", 0, 0))
    data[offset] = 9
    data[28:32] = frames.checksum(bytes(data[:28])).to_bytes(4, "little")
    with pytest.raises(FrameError, match="kind 9" if offset == 5 else "flags"):
        parse_prelude(bytes(data))
    assert PRELUDE_BYTES == 32
