"""Statistics of random operators, and bit-for-bit comparison, for the tests of this folder."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from compressors.compressor import Compressor

SIGMAS = 6.0  # a threshold that true statements miss once in 10^9 draws; seeds are fixed besides


@dataclass(frozen=True)
class Sample:
    """Draws of C(x) for one x, and what theory says they must obey."""

    x: Tensor  # [d] float64
    draws: Tensor  # [n, d] float64

    @property
    def errors(self) -> Tensor:
        """|C(x) - x|^2 / |x|^2 of every draw: `[n]`."""
        return (self.draws - self.x).square().sum(dim=1) / self.x.square().sum()

    @property
    def error(self) -> float:
        """Their mean."""
        return float(self.errors.mean())

    @property
    def spread(self) -> float:
        """Standard error of that mean."""
        return float(self.errors.std()) / math.sqrt(len(self.draws))

    def bias(self) -> float:
        """The largest |mean - x_j| in standard errors, over coordinates and along x and all-ones.

        As in Bernstein's inequality a jump of |x| that is too rare to have been seen adds |x|/n to the error.
        """
        n, d = self.draws.shape
        directions = torch.cat([torch.eye(d).double(), self.x[None], torch.ones(1, d).double()])
        directions /= directions.norm(dim=1, keepdim=True)
        along = (self.draws - self.x) @ directions.T
        spread = along.std(dim=0) / math.sqrt(n) + SIGMAS * self.x.norm() / n
        return float((along.mean(dim=0).abs() / spread).max())

    def is_unbiased(self) -> bool:
        """No direction is off by more than chance allows."""
        return self.bias() < SIGMAS

    def is_within(self, bound: float) -> bool:
        """The mean error is no larger than `bound`, up to chance."""
        return self.error <= bound * (1 + 1e-9) + 1e-12 + SIGMAS * self.spread

    def equals(self, value: float) -> bool:
        """The mean error is `value`, up to chance."""
        return abs(self.error - value) <= 1e-9 * value + 1e-12 + SIGMAS * self.spread


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def draw() -> Callable[..., Sample]:
    """`draw(C, x, n)`: n independent draws of C(x) in float64."""

    def sample(compressor: Compressor, x: Tensor, n: int = 20_000, seed: int = 7) -> Sample:
        x = x.double()
        generator = torch.Generator().manual_seed(seed)
        stack = x.expand(n, -1).contiguous()
        return Sample(x, compressor.encode(stack, [generator] * n).value)

    return sample


@pytest.fixture
def generators() -> Callable[..., list[torch.Generator]]:
    """`generators(G, seed)`: one fresh generator a client."""

    def make(count: int, seed: int = 0) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(1000 * seed + g) for g in range(count)]

    return make


@pytest.fixture
def same_bits() -> Callable[[Tensor, Tensor], bool]:
    """Whether two tensors hold the same bytes; 0 and -0 differ."""

    def same(a: Tensor, b: Tensor) -> bool:
        if a.shape != b.shape or a.dtype is not b.dtype:
            return False
        return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))

    return same
