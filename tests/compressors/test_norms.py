"""Norms of rows: right, safe at the ends of the range, and blind to the rest of the stack."""

from __future__ import annotations

import math

import pytest
import torch

from compressors.compressor import CompressorOptionError, NonFiniteError
from compressors.norms import _on_device, check_order, row_norms

ORDERS = [1.0, 1.5, 2.0, 7.0, math.inf]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("n", [1, 7, 1000, 100_000])
def test_norms_are_right(order: float, dtype: torch.dtype, n: int) -> None:
    """To the carrier's last bits; x is not touched; a row alone has the norm it has in a stack."""
    x = torch.randn(3, n, generator=torch.Generator().manual_seed(n)).to(dtype)
    before = x.clone()
    norms = row_norms(x, order)
    assert torch.equal(x, before)
    assert norms.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
    exact = torch.linalg.vector_norm(x.double(), order, dim=1)
    tolerance = 1e-12 if dtype is torch.float64 else 1e-7
    assert torch.allclose(norms.double(), exact, rtol=tolerance, atol=0)
    assert bool((norms >= x.abs().amax(dim=1).to(norms.dtype)).all())
    for g in range(3):
        assert torch.equal(row_norms(x[g : g + 1], order), norms[g : g + 1])
    assert torch.allclose(_on_device(x, order), exact, rtol=1e-12, atol=0)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("scale", [1e-300, 5e-324, 1e300])
def test_doubles_neither_overflow_nor_vanish(order: float, scale: float) -> None:
    """Squares of 1e300 and of 1e-300 leave the range of doubles; the norm does not."""
    x = torch.tensor([[scale, 0.0, -scale]], dtype=torch.float64)
    expected = scale * (1 if order == math.inf else 2 ** (1 / order))
    assert float(row_norms(x, order)) == pytest.approx(expected, rel=1e-12, abs=5e-324)


def test_one_coordinate_is_its_own_norm() -> None:
    """At d = 1 the norm is |x| itself, exactly: dithering loses nothing there."""
    x = torch.randn(500, 1, generator=torch.Generator().manual_seed(1))
    for order in (1.0, 2.0, 3.0, math.inf):
        for dtype in (torch.float32, torch.float64):
            assert torch.equal(row_norms(x.to(dtype), order), x.to(dtype).abs()[:, 0])


def test_a_norm_beyond_the_range_is_an_error() -> None:
    """Finite numbers whose norm is not: said, with the row."""
    x = torch.ones(2, 100)
    x[1] = torch.finfo(torch.float32).max
    with pytest.raises(NonFiniteError, match="row 1: its 2-norm"):
        row_norms(x, 2.0)
    with pytest.raises(NonFiniteError, match="row 1"):
        row_norms(x.double() * 4e269, 1.0)


@pytest.mark.parametrize("bad", [0.5, 0, -1, "2", "max", None, True, float("nan")])
def test_what_is_no_norm_is_refused(bad: object) -> None:
    """p < 1 is no norm, and only "inf" is a word."""
    with pytest.raises(CompressorOptionError, match="norm"):
        check_order("std-dithering", bad)
