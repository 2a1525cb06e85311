"""Random bits from one client's generator: raw words for rounding, and generators for parts of a whole.

Everything comes from raw 64-bit words, which cost a third of uniform floats. A draw depends only on the
generator and on how many bits are asked for, so a stack of clients gets the numbers its rows would get alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

# 64k coordinates of a few buffers stay in a core's cache: three times faster than whole-vector passes.
BLOCK = 1 << 16
_CUDA_BLOCK = 1 << 24  # on a GPU the launches cost, not the cache


def words(generator: torch.Generator, count: int) -> Tensor:
    """`count` words of 64 independent fair bits each: int64 `[count]` on the generator's device."""
    empty = torch.empty(count, dtype=torch.int64, device=generator.device)
    return empty.random_(-(2**63), None, generator=generator)


def uniform(generator: torch.Generator) -> float:
    """One number in [0, 1) with 53 fair bits, from one word."""
    return (int(words(generator, 1)) & (2**53 - 1)) / 2.0**53


def children(generator: torch.Generator, count: int) -> list[torch.Generator]:
    """`count` independent CPU generators, seeded by as many words of this one.

    Each part of a composition draws from a child of its own, so the receiver can draw a part's pattern
    without the private noise of the others.
    """
    return [torch.Generator().manual_seed(seed) for seed in words(generator, count).tolist()]


def noise_generator(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """Where rounding noise on `device` comes from: the generator itself, or a GPU one it seeds."""
    if device.type == "cpu":
        return generator
    return torch.Generator(device).manual_seed(int(words(generator, 1)))


def random_bits(generators: Sequence[torch.Generator], count: int, dtype: torch.dtype) -> Tensor:
    """Integers with all bits random: `[G, count]` of the integer `dtype`, row g from generator g alone."""
    per_word = 8 // dtype.itemsize
    rows = [words(generator, -(-count // per_word)).view(dtype)[:count] for generator in generators]
    return rows[0].unsqueeze(0) if len(rows) == 1 else torch.stack(rows)


def blocks(rows: int, columns: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Cut `[rows, columns]` into pieces that fit a cache: many short rows, or a piece of a long one."""
    size = BLOCK if device.type == "cpu" else _CUDA_BLOCK
    height = max(1, size // max(1, columns))
    for top in range(0, rows, height):
        for left in range(0, columns, size):
            yield slice(top, min(top + height, rows)), slice(left, min(left + size, columns))
