"""The K largest magnitudes: exact, lowest index among equals, on the short and on the long path."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from compressors.selection import _on_device, largest


def _by_sorting(row: Tensor, k: int) -> list[int]:
    order = np.argsort(-row.double().abs().numpy(), kind="stable")
    return sorted(order[:k].tolist())


@pytest.mark.parametrize("n", [1, 2, 9, 1000, 200_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_the_largest_are_those_a_stable_sort_finds(n: int, dtype: torch.dtype) -> None:
    """Random values with many equals (half floats repeat), every kind of k."""
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(2, n, generator=generator).to(dtype)
    for k in {1, max(1, n // 100), max(1, n // 3), max(1, n - 1), n}:
        places = largest(x, k)
        for row in range(2):
            assert places[row].tolist() == _by_sorting(x[row], k)


@pytest.mark.parametrize("n", [10, 200_000])
def test_equals_go_by_lowest_index(n: int) -> None:
    """All equal, whatever the sign (a zero's too): the first k."""
    ones = torch.ones(1, n)
    ones[0, ::2] = -1
    zeros = torch.zeros(1, n)
    zeros[0, ::2] = -0.0
    for x in (ones, zeros):
        assert largest(x, 4).tolist() == [[0, 1, 2, 3]]


def test_a_misleading_sample_changes_nothing() -> None:
    """Where the sampled coordinates are all large, or all small, the result is still exact."""
    n = 200_000
    step = n // (1 << 15)
    noise = torch.rand(n, generator=torch.Generator().manual_seed(1))
    for sampled, others in ((100.0, 1.0), (1.0, 100.0)):
        x = noise * others
        x[::step] = noise[::step] * sampled
        for k in (5, 2000, 60_000, 190_000):
            assert largest(x[None], k)[0].tolist() == _by_sorting(x, k)


def test_the_device_path_agrees() -> None:
    """The torch version that runs on a GPU, run here, chooses the same places."""
    x = torch.randn(3, 500, generator=torch.Generator().manual_seed(2)).bfloat16()
    bits = x.view(torch.int16) & torch.iinfo(torch.int16).max
    for k in (1, 50, 499):
        assert torch.equal(_on_device(bits, k), largest(x, k))
