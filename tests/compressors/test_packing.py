"""Bit fields and ternary digits come back as they went, at the size promised."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressors.compressor import PayloadError
from compressors.packing import (
    code_dtype,
    pack,
    pack_trits,
    packed_bytes,
    trit_bytes,
    unpack,
    unpack_trits,
)


@given(st.integers(1, 32), st.integers(1, 70), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_fields_come_back(width: int, count: int, rows: int, seed: int) -> None:
    """Any width to 32, any count: the same codes, in width * count bits and less than a byte a plane."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 1 << width, (rows, count), dtype=np.uint64).astype(code_dtype(width))
    raw = pack(codes, width)
    assert raw.shape == (rows, packed_bytes(count, width))
    assert 0 <= raw.shape[1] * 8 - width * count < 8 * 6
    assert np.array_equal(unpack(raw, count, width), codes)


def test_rows_do_not_mix() -> None:
    """A row's bytes do not depend on the other rows."""
    codes = np.random.default_rng(1).integers(0, 512, (4, 37)).astype(np.uint16)
    raw = pack(codes, 9)
    assert all(np.array_equal(pack(codes[g : g + 1], 9)[0], raw[g]) for g in range(4))


@given(st.integers(1, 70), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_trits_come_back(count: int, rows: int, seed: int) -> None:
    """Five ternary digits a byte, any count."""
    trits = np.random.default_rng(seed).integers(0, 3, (rows, count)).astype(np.uint8)
    raw = pack_trits(trits)
    assert raw.shape == (rows, trit_bytes(count))
    assert trit_bytes(count) == -(-count // 5)
    assert np.array_equal(unpack_trits(raw, count), trits)


def test_a_byte_that_is_no_five_trits_is_refused() -> None:
    """243 and above encode nothing."""
    with pytest.raises(PayloadError, match="242"):
        unpack_trits(np.array([[243]], dtype=np.uint8), 5)
