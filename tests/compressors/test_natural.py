"""Natural compression at the edges of the float formats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from compressors.natural import Natural

FORMATS = [
    (torch.float32, 9, 126, 127),
    (torch.float64, 12, 1022, 1023),
    (torch.float16, 6, 14, 15),
    (torch.bfloat16, 9, 126, 127),
]
every_format = pytest.mark.parametrize(("dtype", "width", "low", "high"), FORMATS, ids=lambda v: str(v))


@every_format
def test_powers_of_two_are_unchanged(
    dtype: torch.dtype, width: int, low: int, high: int, generators: Callable[..., Any]
) -> None:
    """Every normal power of two of either sign, for every draw; and the code is `width` bits."""
    powers = torch.tensor([2.0**e for e in range(-low, high + 1)], dtype=torch.float64).to(dtype)
    x = torch.cat([powers, -powers, torch.zeros(1, dtype=dtype)]).expand(20, -1)
    assert torch.equal(Natural().encode(x, generators(20)).value, x)
    assert Natural().bits(1000, dtype) == 1000 * width


@every_format
def test_neighbours_are_the_only_values(
    dtype: torch.dtype, width: int, low: int, high: int, generators: Callable[..., Any]
) -> None:
    """A number becomes one of the powers of two around it, and just off a power it nearly always goes there."""
    x = torch.tensor([3.0, -5.0, 0.3, 1 + torch.finfo(dtype).eps]).to(dtype).expand(300, -1)
    value = Natural().encode(x, generators(300)).value.double()
    assert set(value[:, 0].tolist()) == {2.0, 4.0}
    assert set(value[:, 1].tolist()) == {-4.0, -8.0}
    assert set(value[:, 2].tolist()) == {0.25, 0.5}
    assert set(value[:, 3].tolist()) <= {1.0, 2.0}
    assert float((value[:, 3] == 1).double().mean()) > 0.9


@every_format
def test_subnormals_become_zero(
    dtype: torch.dtype, width: int, low: int, high: int, generators: Callable[..., Any]
) -> None:
    """Below the smallest normal number there is no exponent to send: 0, always."""
    smallest = 2.0**-low
    below = torch.tensor([smallest / 2, -smallest / 4, smallest * (1 - torch.finfo(dtype).eps)], dtype=torch.float64)
    x = below.to(dtype).expand(200, -1)
    assert bool((x != 0).all())
    assert not Natural().encode(x, generators(200)).value.any()


@every_format
def test_the_top_saturates(dtype: torch.dtype, width: int, low: int, high: int, generators: Callable[..., Any]) -> None:
    """What would round up beyond the largest power of two becomes the largest finite number, never inf."""
    largest = torch.finfo(dtype).max
    x = torch.tensor([largest, -largest, 1.5 * 2.0**high], dtype=torch.float64).to(dtype).expand(200, -1)
    value = Natural().encode(x, generators(200)).value
    assert set(value.double().abs().flatten().tolist()) == {2.0**high, largest}


def test_half_precision_is_unbiased(generators: Callable[..., Any]) -> None:
    """The mean of many draws in float16 and bfloat16 is x: probabilities are exact there too."""
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.tensor([1.25, -3.5, 0.7, 100.0]).to(dtype)
        generator = generators(1)[0]
        draws: Tensor = Natural().encode(x.expand(20_000, -1), [generator] * 20_000).value.double()
        spread = draws.std(dim=0) / 20_000**0.5
        assert bool(((draws.mean(dim=0) - x.double()).abs() <= 6 * spread).all())
