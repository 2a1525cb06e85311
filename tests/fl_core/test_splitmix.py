"""The keyed draws of many clients at once: SplitMix64's own numbers, true permutations, uniform and independent."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_core.randomness import seed_of
from fl_core.splitmix import numbers, permutations, picks, ragged_permutations, streams

MASK = (1 << 64) - 1


def by_hand(start: int, count: int) -> list[int]:
    """The generator as published: one state that moves on, numbers one by one."""
    found = []
    for _ in range(count):
        start = (start + 0x9E3779B97F4A7C15) & MASK
        z = start
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        found.append(z ^ (z >> 31))
    return found


def keys(n: int, seed: int = 0) -> np.ndarray:
    """The streams of clients 0 … n-1."""
    return streams(np.arange(n), seed, 1, "epoch", 0)


def test_the_numbers_are_splitmix64() -> None:
    """The first five numbers from 1234567, as published with the reference implementation (Vigna's splitmix64.c)."""
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert numbers(np.array([1234567], np.uint64), 5)[0].tolist() == published == by_hand(1234567, 5)


def test_a_stream_starts_from_the_client_s_number_of_its_purpose() -> None:
    """Key and client give the same start for one client as among many, by plain arithmetic."""
    head = seed_of(5, 2, "epoch", 3)
    clients = np.array([7, 0, 3])
    alone = [streams(clients[k : k + 1], 5, 2, "epoch", 3)[0] for k in range(3)]
    expected = by_hand(head, 8)
    assert streams(clients, 5, 2, "epoch", 3).tolist() == alone == [expected[7], expected[0], expected[3]]


def test_another_key_is_another_stream() -> None:
    """Seed, round, purpose and client all count."""
    starts = [streams(np.arange(100), *key) for key in ((1, 1, "epoch", 0), (2, 1, "epoch", 0), (1, 2, "epoch", 0))]
    starts += [streams(np.arange(100), 1, 1, "epoch", 1), streams(np.arange(100), 1, 1, "sample", 0)]
    assert len(np.unique(np.concatenate(starts))) == 500


@settings(deadline=None)
@given(
    sizes=st.lists(st.one_of(st.integers(1, 70), st.sampled_from([64, 65, 128, 129, 1000])), min_size=1, max_size=12)
)
def test_every_row_is_a_permutation_and_its_client_s_own(sizes: list[int]) -> None:
    """Each number once; a client's is the same alone, among clients as large, and among any others."""
    starts = keys(len(sizes))
    found = np.split(ragged_permutations(starts, np.array(sizes)), np.cumsum(sizes)[:-1])
    for k, (m, row) in enumerate(zip(sizes, found, strict=True)):
        assert sorted(row.tolist()) == list(range(m))
        assert np.array_equal(row, permutations(starts[k : k + 1], m)[0])
        assert np.array_equal(row, permutations(starts, m)[k])


def test_the_order_is_that_of_the_numbers() -> None:
    """Sorting the words themselves gives what sorting positions by their words gives."""
    starts = keys(200)
    assert np.array_equal(permutations(starts, 60), np.argsort(numbers(starts, 60), 1, kind="stable"))


def excess(counts: np.ndarray, expected: float, freedom: int) -> float:
    """By how many standard deviations a chi-square statistic exceeds its mean."""
    return (float(((counts - expected) ** 2 / expected).sum()) - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("m", [3, 16, 20])
def test_every_sample_is_as_likely_at_every_place(m: int) -> None:
    """Over 20,000 clients with successive ids, and over 20,000 seeds: chi-square of place against sample."""
    n = 20_000
    by_seed = np.concatenate([streams(np.array([3]), seed, 1, "epoch", 0) for seed in range(n)])
    for starts in (keys(n), by_seed):
        rows = permutations(starts, m)
        counts = np.stack([np.bincount(rows[:, place], minlength=m) for place in range(m)])
        assert abs(excess(counts, n / m, (m - 1) ** 2)) < 4.5


def test_every_permutation_is_as_likely() -> None:
    """All 24 orders of four samples occur, and as often as each other: chi-square."""
    _, counts = np.unique(permutations(keys(24_000), 4) @ [64, 16, 4, 1], return_counts=True)
    assert len(counts) == 24
    assert abs(excess(counts, 1000, 23)) < 4.5


@pytest.mark.parametrize("other", ["the next client", "the next epoch", "the next round", "the next seed"])
def test_keys_that_are_neighbours_are_independent(other: str) -> None:
    """Where a sample stands in one order says nothing of where it stands in the other: all pairs are as likely."""
    n, m = 20_000, 8
    changed = {
        "the next client": streams(np.arange(n) + 1, 0, 1, "epoch", 0),
        "the next epoch": streams(np.arange(n), 0, 1, "epoch", 1),
        "the next round": streams(np.arange(n), 0, 2, "epoch", 0),
        "the next seed": keys(n, 1),
    }[other]
    first, second = permutations(keys(n), m), permutations(changed, m)
    counts = np.bincount(m * first[:, 0] + second[:, 0], minlength=m * m)
    assert abs(excess(counts, n / m**2, m * m - 1)) < 4.5
    agreeing = (first == second).sum(1)
    assert abs(float(agreeing.mean()) - 1) < 4.5 / math.sqrt(n)  # one fixed point on average, with variance one


@pytest.mark.parametrize("m", [1, 7, 1000])
def test_picks_are_uniform(m: int) -> None:
    """With replacement, each of the m numbers as often as each other."""
    found = picks(keys(1000), m, 50)
    assert found.shape == (1000, 50)
    counts = np.bincount(found.reshape(-1), minlength=m)
    assert len(counts) == m
    assert m == 1 or abs(excess(counts, 50_000 / m, m - 1)) < 4.5
