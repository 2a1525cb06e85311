"""Who takes part in a round, and in which cohorts."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from fl_core.sampling import Sampler, cohort_size, cut, sample_clients


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("uniform", (2, 7, 8, 9, 18), (2, 6, 10, 13, 19)),
        ("poisson", (2, 7, 8, 12, 15), (2, 6, 9, 17, 18)),
        ("full", tuple(range(20)), tuple(range(20))),
    ],
)
def test_the_participants_are_pinned(kind: str, first: tuple[int, ...], second: tuple[int, ...]) -> None:
    """Who takes part is a function of (seed, round) that no version may change unnoticed."""
    assert sample_clients(kind, 20, 5, 1, 1) == first
    assert sample_clients(kind, 20, 5, 1, 2) == second


@pytest.mark.parametrize("kind", ["uniform", "poisson"])
def test_participants_ascend_and_differ(kind: str) -> None:
    """In ascending order, each client once, plain integers in 0..n-1."""
    for t in range(200):
        sampled = sample_clients(kind, 10, 4, 3, t)
        assert list(sampled) == sorted(set(sampled))
        assert all(type(i) is int and 0 <= i < 10 for i in sampled)


@pytest.mark.parametrize("kind", ["uniform", "poisson", "full"])
@pytest.mark.parametrize(("n", "per_round"), [(20, 5), (5, 5), (3000, 2500)])
def test_rounds_sampled_ahead_are_the_rounds(kind: str, n: int, per_round: int) -> None:
    """In order, again, backwards, after a jump (a resume) and beyond the last: the same as each by itself."""
    sampler = Sampler(kind, n, per_round, 7, rounds=40)
    for t in [*range(1, 42), 41, 40, 3, 2, 2, 30, 31, 100]:
        assert sampler.sample(t) == sample_clients(kind, n, per_round, 7, t)


def frequencies(kind: str, n: int, per_round: int, rounds: int) -> Counter[int]:
    """How often each client takes part."""
    return Counter(i for t in range(rounds) for i in sample_clients(kind, n, per_round, 7, t))


@pytest.mark.parametrize("kind", ["uniform", "poisson"])
def test_every_client_is_as_likely(kind: str) -> None:
    """Each client takes part with probability per_round/n: chi-square of its frequencies over 4,000 rounds."""
    n, per_round, rounds = 8, 3, 4000
    p = per_round / n
    counts = frequencies(kind, n, per_round, rounds)
    deviations = sum((counts[i] - rounds * p) ** 2 / (rounds * p * (1 - p)) for i in range(n))
    assert deviations < 30  # of 8 degrees of freedom at most: exceeded once in 5,000 seeds


def test_uniform_takes_exactly_per_round_and_every_subset() -> None:
    """Always S clients; all subsets occur alike."""
    rounds = 3000
    subsets = Counter(sample_clients("uniform", 5, 2, 1, t) for t in range(rounds))
    assert len(subsets) == math.comb(5, 2)
    expected = rounds / 10
    assert sum((count - expected) ** 2 / expected for count in subsets.values()) < 30  # 9 degrees of freedom


def test_poisson_sizes_are_binomial() -> None:
    """Each client decides for itself: the size has mean n p and variance n p (1-p), and now and then nobody comes."""
    n, per_round, rounds = 6, 2, 4000
    p = per_round / n
    sizes = [len(sample_clients("poisson", n, per_round, 11, t)) for t in range(rounds)]
    counts = Counter(sizes)
    for size in range(n + 1):
        q = math.comb(n, size) * p**size * (1 - p) ** (n - size)
        assert abs(counts[size] - rounds * q) < 5 * math.sqrt(rounds * q * (1 - q)) + 1
    assert counts[0] > 0
    pairs = sum({0, 1} <= set(sample_clients("poisson", n, per_round, 11, t)) for t in range(rounds))
    assert abs(pairs - rounds * p * p) < 5 * math.sqrt(rounds * p * p)  # two clients decide independently


def test_everyone() -> None:
    """ "full", and uniform or poisson with per_round = n, are all clients, in order."""
    for kind in ("full", "uniform", "poisson"):
        assert sample_clients(kind, 5, 5, 1, 3) == (0, 1, 2, 3, 4)


def test_seed_and_round_choose() -> None:
    """Another seed, or another round, is another sample; the same again is the same."""
    assert sample_clients("uniform", 100, 10, 1, 1) == sample_clients("uniform", 100, 10, 1, 1)
    samples = {sample_clients("uniform", 100, 10, seed, t) for seed in (1, 2) for t in (1, 2)}
    assert len(samples) == 4


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 100])
def test_cohorts_are_consecutive_and_complete(size: int) -> None:
    """Every participant in one cohort, in order; all but the last full."""
    clients = tuple(range(3, 11))
    cohorts = cut(clients, size)
    assert sum(cohorts, ()) == clients
    assert all(len(cohort) == size for cohort in cohorts[:-1])
    assert 1 <= len(cohorts[-1]) <= size
    assert cut((), size) == ()


@pytest.mark.parametrize(
    ("choice", "per_round", "size"),
    [(5, 100, 5), ("auto", 1, 1), ("auto", 8, 1), ("auto", 9, 2), ("auto", 100, 13), ("auto", 10**6, 64)],
)
def test_cohort_sizes(choice: int | str, per_round: int, size: int) -> None:
    """The experiment's number; else about eight tasks a round, of at most 64 clients: never a matter of the cluster."""
    assert cohort_size(choice, per_round) == size


@pytest.mark.parametrize(
    ("per_round", "d", "size"),
    [
        (100, 20, 50),
        (20, 650, 10),
        (5000, 20, 1000),
        (500, 100, 250),
        (500, 784, 64),
        (100, 7850, 50),
        (400, 7850, 64),
        (100, 10**6 - 1, 13),
        (20, 10**6, 1),
        (100, 10**7, 4),
    ],
)
def test_cohorts_follow_the_model(per_round: int, d: int, size: int) -> None:
    """Of small models, which run as one computation, they are large; of large ones a client or a few."""
    assert cohort_size("auto", per_round, d) == size


@pytest.mark.parametrize(
    ("per_round", "d", "samples", "size"),
    [
        (100, 20, 12, 100),
        (1000, 20, 12, 1000),
        (5000, 20, 12, 1000),
        (10, 650, 140, 10),
        (10, 650, 1000, 5),
        (100, 7850, 60, 50),
        (2, 10**5, 0.5, 2),
    ],
)
def test_a_round_of_little_work_is_one_task(per_round: int, d: int, samples: float, size: int) -> None:
    """Handing out and adding up a second task would cost more than its share of the work."""
    assert cohort_size("auto", per_round, d, samples) == size
