"""Uniform K-subsets of the coordinates, which sender and receiver draw alike from a shared generator."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from compressors.noise import BLOCK, words

Indices = npt.NDArray[np.int64]

_SHORT = 256  # up to here ranking d words is cheapest
_DENSE = 32  # from d/32 on a mask over all d is cheaper than sorting the draws


def uniform_subset(generator: torch.Generator, d: int, k: int) -> Indices:
    """A K-subset of range(d), each exactly as likely as any other: int64 `[K]`, ascending. 0 <= k <= d.

    Sparse: distinct values of slightly too many uniform draws. Dense: a fair coin's mask with slightly too
    many heads. Either set is, given its size, a uniform subset of that size; what is too much is then removed
    at random by the same function. Costs 10 ms at d = 11 million, where a random permutation costs 565.
    """
    if k >= d:
        return np.arange(d, dtype=np.int64)
    if d <= _SHORT:
        return _ranked(generator, d, k)
    if 2 * k > d:
        kept = np.ones(d, np.bool_)
        kept[uniform_subset(generator, d, d - k)] = False
        return np.flatnonzero(kept)
    if k == 0:
        return np.empty(0, np.int64)
    found = _masked(generator, d, k) if k * _DENSE > d else _distinct(generator, d, k)
    if found.size == k:
        return found
    kept = np.ones(found.size, np.bool_)
    kept[uniform_subset(generator, found.size, found.size - k)] = False
    return found[kept]


def _ranked(generator: torch.Generator, d: int, k: int) -> Indices:
    """The places of the k smallest of d random words; equal words, once in 2^45 draws, are drawn again."""
    while True:
        keys = words(generator, d).numpy()
        order = keys.argsort()
        if d == 1 or bool((keys[order[1:]] != keys[order[:-1]]).all()):
            chosen: Indices = order[:k]
            chosen.sort()
            return chosen


def _distinct(generator: torch.Generator, d: int, k: int) -> Indices:
    """At least k distinct uniform values below d, ascending."""
    draws: npt.NDArray[np.integer[Any]] = np.empty(0, np.uint32 if d <= 1 << 32 else np.uint64)
    missing = k
    while True:
        # of n draws about n^2 / 2d collide; the margin makes a second turn rare
        wanted = missing + missing * k // d + int(3 * math.sqrt(missing)) // 8 + 2
        draws = np.concatenate([draws, _below(generator, d, wanted)])
        draws.sort()
        first = np.empty(draws.size, np.bool_)
        first[0] = True
        np.not_equal(draws[1:], draws[:-1], out=first[1:])
        draws = draws[first]
        if draws.size >= k:
            return draws.astype(np.int64)
        missing = k - draws.size


def _below(generator: torch.Generator, d: int, wanted: int) -> npt.NDArray[np.integer[Any]]:
    """About `wanted` uniform values below d: the low bits of words, those that are d or more thrown away."""
    bits = (d - 1).bit_length()
    tries = (wanted << bits) // d + int(2 * math.sqrt(wanted)) + 1
    values: npt.NDArray[np.integer[Any]]
    if bits <= 32:
        values = words(generator, (tries + 1) // 2).numpy().view(np.uint32) & np.uint32((1 << bits) - 1)
    else:
        values = words(generator, tries).numpy().view(np.uint64) & np.uint64((1 << bits) - 1)
    return values[values < d]


def _masked(generator: torch.Generator, d: int, k: int) -> Indices:
    """The heads of d equal coins, at least k of them, ascending."""
    heads = k + 4 * math.sqrt(k) + 1
    threshold = min(math.ceil(heads / d * 65536), 65535)
    while True:
        pieces = []
        for left in range(0, d, BLOCK):
            count = min(BLOCK, d - left)
            coins = words(generator, -(-count // 4)).numpy().view(np.uint16)[:count]
            pieces.append(np.flatnonzero(coins < threshold) + left)
        found = np.concatenate(pieces)
        if found.size >= k:
            return found
