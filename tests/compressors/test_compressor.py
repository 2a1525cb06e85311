"""The interface's own pieces: checks at the edge, bytes of plain floats, errors in the right branch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from compressors.compressor import (
    CompressorOptionError,
    Layout,
    NonFiniteError,
    PayloadError,
    check_stack,
    empty,
    from_bytes,
    joined,
    split,
    to_bytes,
    zeros,
)
from compressors.identity import Identity
from compressors.topk import TopK
from protocol.errors import InputError, ProtocolError, RunError


def test_errors_sit_in_the_tree() -> None:
    """A wrong option is the user's, a NaN is the run's, wrong bytes are the peer's."""
    assert issubclass(CompressorOptionError, InputError)
    assert issubclass(NonFiniteError, RunError)
    assert issubclass(PayloadError, ProtocolError)


def test_every_bad_row_is_named(generators: Callable[..., Any]) -> None:
    """Up to eight rows, then dots."""
    x = torch.zeros(12, 5)
    x[[1, 4], 2] = torch.nan
    with pytest.raises(NonFiniteError, match=r"row 1, 4 of the stack"):
        check_stack(x, generators(12))
    with pytest.raises(NonFiniteError, match=r"6, 7, \.\.\."):
        check_stack(x + torch.inf, generators(12))


def test_a_sum_that_overflows_is_no_bad_row(generators: Callable[..., Any]) -> None:
    """Finite rows whose sum is not finite pass: the cheap look is followed by an exact one."""
    for dtype in (torch.float16, torch.float32, torch.float64, torch.bfloat16):
        x = torch.full((2, 100), torch.finfo(dtype).max, dtype=dtype)
        assert not torch.isfinite(x.sum(dim=1)).any()
        check_stack(x, generators(2))


@pytest.mark.parametrize(
    ("x", "count", "error"),
    [
        (torch.zeros(3), 3, ValueError),
        (torch.zeros(2, 0), 2, ValueError),
        (torch.zeros(0, 3), 0, ValueError),
        (torch.zeros(2, 3), 3, ValueError),
        (torch.zeros(2, 3, dtype=torch.int64), 2, CompressorOptionError),
    ],
)
def test_what_is_no_stack_is_refused(
    x: torch.Tensor, count: int, error: type[Exception], generators: Callable[..., Any]
) -> None:
    """A flat vector, no coordinates, no rows, too many generators, integers."""
    with pytest.raises(error):
        Identity().encode(x, generators(count))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_floats_are_their_bytes(dtype: torch.dtype, same_bits: Callable[..., bool]) -> None:
    """To bytes and back, read-only bytes included; little-endian."""
    x = torch.randn(3, 7, dtype=torch.float64).to(dtype)
    raw = to_bytes(x)
    raw.flags.writeable = False
    assert same_bits(from_bytes(raw, Layout(7, dtype)), x)
    assert to_bytes(torch.tensor([[1.0]])).tobytes() == b"\x00\x00\x80\x3f"


def test_long_stacks_are_ordinary_tensors() -> None:
    """The numpy-allocated ones (4 MB and more) have the right shape and zeros, for every dtype."""
    for dtype in (torch.float64, torch.bfloat16, torch.uint8):
        like = Layout(1 << 22, dtype)
        made = zeros((2, 1 << 22), like)
        assert made.shape == (2, 1 << 22)
        assert made.dtype is dtype
        assert not made.any()
        assert empty((1, 1 << 23), like).is_contiguous()


def test_joined_payloads_are_not_held_twice() -> None:
    """Back to back in order, each taken out of the list; one alone is handed over as it is."""
    payloads = [np.arange(n, dtype=np.uint8) for n in (2, 0, 3)]
    assert joined(payloads).tolist() == [0, 1, 0, 1, 2]
    assert payloads == []
    alone = np.arange(4, dtype=np.uint8)
    assert joined([alone]) is alone


def test_payloads_are_split_as_their_sizes_say() -> None:
    """Views back to back; sizes that do not fit, or none, are refused."""
    payload = np.arange(6, dtype=np.uint8)
    assert [piece.tolist() for piece in split(payload, (1, 0, 5))] == [[0], [], [1, 2, 3, 4, 5]]
    for sizes in ((1, 2), (7,), (-1, 7), ()):
        with pytest.raises(PayloadError):
            split(payload, sizes)


def test_topk_indices_are_checked(generators: Callable[..., Any]) -> None:
    """Indices beyond d, out of order or repeated, and bitmaps with the wrong count, are a PayloadError."""
    like, generator = Layout(1000), generators(1)
    good = TopK(3).encode(torch.arange(1000.0)[None], generator)
    for first in (b"\xff\xff", b"\x00\x00"):
        bad = good.payload.copy()
        bad[1:3] = np.frombuffer(first, np.uint8)
        with pytest.raises(PayloadError, match="indices"):
            TopK(3).decode(bad, good.sizes, like, generator)
    bitmap = TopK(500).encode(torch.arange(1000.0)[None], generator)
    bad = bitmap.payload.copy()
    bad[0] ^= 1
    with pytest.raises(PayloadError, match="bitmap"):
        TopK(500).decode(bad, bitmap.sizes, like, generator)


def test_a_norm_that_is_none_is_refused(generators: Callable[..., Any]) -> None:
    """NaN, inf or a negative number where a norm was due."""
    from compressors.qsgd import Qsgd

    encoded = Qsgd(4).encode(torch.ones(1, 10), generators(1))
    for value in (np.nan, np.inf, -1.0):
        bad = encoded.payload.copy()
        bad[:4] = np.array([value], np.float32).view(np.uint8)
        with pytest.raises(PayloadError, match="norm"):
            Qsgd(4).decode(bad, encoded.sizes, Layout(10), generators(1))
