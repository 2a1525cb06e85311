"""Uniform subsets: right size, every coordinate and every pair alike, the same from the same seed."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch

from compressors.patterns import uniform_subset


def _generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("d", [1, 2, 5, 256, 257, 1000, 70_000])
def test_subsets_are_subsets(d: int) -> None:
    """K distinct ascending indices below d, on each of the three paths, and the same again from the same seed."""
    for k in {0, 1, 2, d // 100, d // 10, d // 2, d - d // 3, d - 1, d}:
        if 0 <= k <= d:
            chosen = uniform_subset(_generator(), d, k)
            assert chosen.size == k
            assert chosen.dtype == np.int64
            assert np.all(np.diff(chosen) > 0)
            assert k == 0 or (chosen[0] >= 0 and chosen[-1] < d)
            assert np.array_equal(chosen, uniform_subset(_generator(), d, k))


def test_every_subset_is_as_likely() -> None:
    """All 20 subsets of 3 of 6 within chance (chi-square)."""
    generator, draws = _generator(), 20_000
    seen = Counter(tuple(uniform_subset(generator, 6, 3).tolist()) for _ in range(draws))
    expected = draws / 20
    chi = sum((seen[s] - expected) ** 2 / expected for s in itertools.combinations(range(6), 3))
    assert chi < 19 + 6 * math.sqrt(2 * 19)


@pytest.mark.parametrize(("d", "k"), [(300, 4), (300, 30), (300, 260)])
def test_long_paths_are_uniform(d: int, k: int) -> None:
    """Few of many, a mask, and a complement: each index equally often, and neighbours no oftener than chance."""
    generator, draws = _generator(), 3000
    hits, pairs = np.zeros(d), 0
    for _ in range(draws):
        chosen = uniform_subset(generator, d, k)
        hits[chosen] += 1
        pairs += int((np.diff(chosen) == 1).sum())
    share = k / d
    deviation = (hits - draws * share) / math.sqrt(draws * share * (1 - share))
    assert np.abs(deviation).max() < 5.5
    assert abs((deviation**2).sum() - d) < 6 * math.sqrt(2 * d)
    expected = draws * (d - 1) * share * (k - 1) / (d - 1)
    assert abs(pairs - expected) < 6 * math.sqrt(expected) + 6


def test_a_biased_subset_would_be_seen() -> None:
    """The same check fails on 'the first K distinct values in ascending order', the classic slip when trimming."""
    generator, hits, d, k, draws = _generator(), np.zeros(300), 300, 30, 3000
    for _ in range(draws):
        surplus = uniform_subset(generator, d, k + 3)
        hits[surplus[:k]] += 1
    deviation = (hits - draws * k / d) / math.sqrt(draws * k / d * (1 - k / d))
    assert np.abs(deviation).max() > 5.5
