"""protocol.buffers: bodies in pieces, views, and lz4 within bounds."""

from __future__ import annotations

import tracemalloc

import lz4.block
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.buffers import (
    ALIGNMENT,
    Body,
    Bytes1d,
    check_sizes,
    compressed,
    is_compressed,
    may_compress,
    pack,
    padded,
    unpack,
)
from protocol.errors import LimitError, MessageError
from protocol.fields import Buffer
from protocol.frames import PIECE_BYTES

RANDOM = np.random.default_rng(0)


def joined(body: Body) -> Bytes1d:
    """The body as the other side receives it."""
    return np.frombuffer(bytearray(b"".join(body.pieces())), np.uint8)


@given(st.lists(st.binary(max_size=50), max_size=8))
def test_buffers_come_back_as_they_were_and_aligned(data: list[bytes]) -> None:
    """Any list of buffers, empty ones too, is split into the same; each view starts at a multiple of 8."""
    body = pack(data)
    received = joined(body)
    assert len(received) == body.nbytes == sum(map(padded, map(len, data)))
    check_sizes(body.buffers, body.nbytes, 1000)
    arrays = unpack(body.buffers, received)
    assert [bytes(array) for array in arrays] == data
    for array in arrays:
        offset = array.__array_interface__["data"][0] - received.__array_interface__["data"][0]
        assert offset % ALIGNMENT == 0
        assert array.flags.writeable


def test_every_shape_of_array_is_taken_without_a_copy() -> None:
    """Scalars, empty and many-dimensional arrays go in by reference; one with gaps is refused."""
    array = np.zeros((3, 4), np.float32)
    body = pack([array, np.array(2.0), np.zeros((0, 3)), np.zeros(2, bool)])
    assert [buffer.nbytes for buffer in body.buffers] == [48, 8, 0, 2]
    array[0, 0] = 1.0
    assert bytes(unpack(body.buffers, joined(body))[0]) == array.tobytes()
    with pytest.raises(MessageError, match="contiguous"):
        pack([array[:, ::2]])


def test_pieces_are_one_mebibyte_and_large_buffers_are_not_copied() -> None:
    """Three buffers in pieces of 1 MiB and a rest; the pieces within one buffer point into it."""
    large = np.zeros(3 * PIECE_BYTES, np.uint8)
    pieces = list(pack([large, np.ones(100, np.uint8)]).pieces())
    assert [len(piece) for piece in pieces] == [PIECE_BYTES] * 3 + [104]
    assert [isinstance(piece, memoryview) for piece in pieces] == [True] * 3 + [False]
    pieces = list(pack([np.ones(100, np.uint8), large]).pieces())
    assert [len(piece) for piece in pieces] == [PIECE_BYTES] * 3 + [104]


def test_lz4_is_used_where_samples_show_that_it_pays() -> None:
    """Small integers are compressed, random and small buffers are not, and all come back."""
    data = [
        RANDOM.integers(0, 3, 200_001, dtype=np.int8),
        RANDOM.integers(0, 256, 200_000, dtype=np.uint8),
        np.zeros(1000, np.uint8),
        np.empty(0, np.uint8),
    ]
    body = pack(data)
    assert may_compress(body)
    shorter = compressed(body)
    assert [buffer.codec for buffer in shorter.buffers] == ["lz4", "none", "none", "none"]
    assert shorter.nbytes < 0.7 * body.nbytes + 200_000
    assert is_compressed(shorter.buffers)
    assert not is_compressed(body.buffers)
    check_sizes(shorter.buffers, shorter.nbytes, body.nbytes)
    arrays = unpack(shorter.buffers, joined(shorter))
    assert [bytes(array) for array in arrays] == [array.tobytes() for array in data]
    assert all(array.flags.writeable for array in arrays)


def test_buffers_that_lie_about_sizes_are_refused() -> None:
    """A sum that is not the body's, a decompressed size beyond the limit, a ratio that lz4 cannot have."""
    with pytest.raises(MessageError, match="add up"):
        check_sizes([Buffer(8, 8)], 9, 100)
    with pytest.raises(LimitError, match="101"):
        check_sizes([Buffer(8, 101, "lz4")], 8, 100)
    with pytest.raises(LimitError, match="120"):
        check_sizes([Buffer(8, 60, "lz4")] * 2, 16, 100)
    with pytest.raises(MessageError, match="cannot become"):
        check_sizes([Buffer(8, 8 * 256, "lz4")], 8, 1 << 30)


@pytest.mark.parametrize("announced", [1000, 1 << 20, (1 << 24) - 1, (1 << 24) + 1])
def test_an_lz4_bomb_costs_no_more_than_it_announced(announced: int) -> None:
    """16 MiB of zeros in 66 kB that claim to be something else: refused, in no more memory than claimed."""
    bomb = np.frombuffer(lz4.block.compress(bytes(1 << 24), store_size=False), np.uint8)
    tracemalloc.start()
    try:
        with pytest.raises(MessageError, match="decompress"):
            unpack([Buffer(len(bomb), announced, "lz4")], bomb)
        assert tracemalloc.get_traced_memory()[1] < 2 * announced + 100_000
    finally:
        tracemalloc.stop()


@given(st.binary(min_size=1, max_size=100), st.integers(1, 1000))
def test_arbitrary_bytes_as_lz4_raise_nothing_else(data: bytes, announced: int) -> None:
    """What lz4 makes of noise is either of the announced size or a MessageError."""
    try:
        (array,) = unpack([Buffer(len(data), announced, "lz4")], np.frombuffer(data, np.uint8))
    except MessageError:
        return
    assert len(array) == announced
