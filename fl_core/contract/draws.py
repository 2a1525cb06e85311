"""Random operators tried out: the vectors they are tried on, and what many draws say of bias and variance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from compressors.compressor import Compressor
from fl_core.randomness import generator

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LENGTHS = (1, 2, 3, 30, 101)
DRAWS = 4000
SIGMAS = 6.0  # a true statement fails once in 10^9 draws, and the seeds are fixed


@dataclass(frozen=True)
class Sample:
    """What many draws of C(x) for one x say."""

    bias: float  # in standard errors, the largest over coordinates and along x
    error: float  # mean of |C(x) - x|² / |x|²
    spread: float  # its standard error

    def __str__(self) -> str:
        return f"E|C(x) - x|² / |x|² is {self.error:.4g} ± {self.spread:.2g}"

    def within(self, bound: float) -> bool:
        """Whether the mean error is no larger than `bound`, up to chance."""
        return self.error <= bound * (1 + 1e-9) + 1e-12 + SIGMAS * self.spread


def sample_of(compressor: Compressor, x: Tensor) -> Sample:
    """DRAWS draws of C(x), x float64 `[d]`."""
    source = generator(7, "draws")
    draws = compressor.encode(x.expand(DRAWS, -1).contiguous(), [source] * DRAWS).value
    errors = (draws - x).square().sum(dim=1) / x.square().sum()
    directions = torch.cat([torch.eye(len(x), dtype=x.dtype), x[None]])
    along = draws @ directions.T
    gap = (along.mean(dim=0) - directions @ x).abs()
    # Of a coordinate that changes once in more draws than these the deviation is not seen: the mean error bounds it.
    unseen = (errors.mean() * x.square().sum() / DRAWS).sqrt()
    spread = along.std(dim=0).maximum(unseen) / math.sqrt(DRAWS)
    scores = torch.where(gap <= 1e-12 * x.abs().sum(), torch.zeros_like(gap), gap / spread)
    return Sample(float(scores.max()), float(errors.mean()), float(errors.std()) / math.sqrt(DRAWS))


def vectors(d: int) -> list[Tensor]:
    """Unlike ones: random, flat, one coordinate, decaying; float64 `[d]`."""
    ones = torch.ones(d, dtype=torch.float64)
    return [
        torch.randn(d, generator=generator(5, "vector"), dtype=torch.float64),
        ones,
        3 * torch.eye(d, dtype=torch.float64)[0],
        torch.linspace(0.5, 4 / 3, d, dtype=torch.float64) ** 5,
    ]


def stacks(rows: int) -> Iterator[Tensor]:
    """`[rows, d]` in every type and length."""
    return (stack(rows, d, dtype) for dtype in DTYPES for d in LENGTHS)


def stack(rows: int, d: int, dtype: torch.dtype) -> Tensor:
    """`[rows, d]`, coordinates of unlike sizes."""
    x = torch.randn(rows, d, generator=generator(rows, "stack", d), dtype=torch.float64)
    return (x * torch.logspace(-1, 1, d, dtype=torch.float64)).to(dtype)


def sources(count: int) -> list[torch.Generator]:
    """Fresh generators, the same each time."""
    return [generator(0, "client", g) for g in range(count)]


__all__ = ["DRAWS", "DTYPES", "LENGTHS", "SIGMAS", "Sample", "sample_of", "sources", "stack", "stacks", "vectors"]
