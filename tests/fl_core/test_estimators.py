"""The gradient estimators: which samples a client uses, and that the gradients they give are what theory says."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from fl_core.estimators import Estimator, Orders, resolve_tau

KEY = (1, 2, 3)


def made(kind: str, tau: int | str | None = None, batch_size: int = 3, epochs: int | None = 1) -> Estimator:
    """An estimator of that kind; four steps where no epochs are given."""
    return Estimator(kind, batch_size, tau, epochs, None if epochs else 4)


def drawn(estimator: Estimator, m: int, step: int, client: int = 3) -> list[int]:
    """The samples of one step."""
    chosen = estimator.indices(m, (1, 2, client), step)
    return list(range(m)) if chosen is None else chosen.tolist()


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("minibatch", [4, 9, 6], [0, 8, 5]),
        ("nice", [7, 2, 1, 9], [2, 9, 7, 6]),
        ("multi", [9, 7, 2, 5], [9, 3, 2, 8]),
        ("uniform", [7], [2]),
    ],
)
def test_the_samples_are_pinned(kind: str, first: list[int], second: list[int]) -> None:
    """The samples of a step are a function of (seed, round, client, step) that no version may change unnoticed."""
    estimator = made(kind, 4)
    assert [drawn(estimator, 10, 0), drawn(estimator, 10, 1)] == [first, second]


@pytest.mark.parametrize(
    ("tau", "m", "expected"),
    [
        ("7%", 100, 7),  # 0.07 * 100 is 7.000000000000001 in floating point
        ("29%", 100, 29),
        ("57 %", 100, 57),
        ("10%", 5, 1),
        ("10%", 11, 2),
        ("0.1%", 10, 1),
        ("33.3%", 1000, 333),
        ("12.5%", 16, 2),
        ("16.1%", 1000, 161),  # 16.1 * 1000 is 16100.000000000002
        ("100%", 7, 7),
        ("200%", 7, 7),
        (3, 10, 3),
        (30, 10, 10),
    ],
)
def test_tau(tau: int | str, m: int, expected: int) -> None:
    """A percentage is rounded up in exact arithmetic, is at least one sample, and never more than there are."""
    assert resolve_tau(tau, m) == expected


def test_all_percentages_are_exact() -> None:
    """p % of 100 samples is p samples, for every whole p."""
    assert [resolve_tau(f"{p}%", 100) for p in range(1, 101)] == list(range(1, 101))


def test_tau_is_needed() -> None:
    """ "nice" and "multi" without tau say so."""
    with pytest.raises(ValueError, match="needs tau"):
        made("nice").size(10)


@pytest.mark.parametrize(
    ("kind", "tau", "m", "size", "steps"),
    [
        ("full", None, 10, 10, 1),
        ("minibatch", None, 10, 3, 4),
        ("minibatch", None, 9, 3, 3),
        ("minibatch", None, 2, 2, 1),
        ("nice", 4, 10, 4, 3),
        ("nice", "10%", 25, 3, 9),
        ("multi", 4, 10, 4, 3),
        ("uniform", None, 10, 1, 10),
    ],
)
def test_an_epoch_is_as_many_steps_as_it_takes(kind: str, tau: int | str | None, m: int, size: int, steps: int) -> None:
    """One epoch is ceil(m / samples a step) local steps; e epochs are e times that; `steps` is taken as it is."""
    assert made(kind, tau).size(m) == size
    assert made(kind, tau).local_steps(m) == steps
    assert made(kind, tau, epochs=3).local_steps(m) == 3 * steps
    assert made(kind, tau, epochs=None).local_steps(m) == 4


@pytest.mark.parametrize("m", [1, 2, 3, 7, 9, 10])
def test_an_epoch_of_minibatches_covers_every_sample_once(m: int) -> None:
    """The slices of each epoch are a partition of the samples, the last slice possibly smaller."""
    estimator = made("minibatch", epochs=4)
    slices = estimator.local_steps(m) // 4
    orders = []
    for epoch in range(4):
        batches = [drawn(estimator, m, epoch * slices + k) for k in range(slices)]
        order = [j for batch in batches for j in batch]
        assert sorted(order) == list(range(m))
        assert all(len(batch) == min(3, m) for batch in batches[:-1])
        orders.append(tuple(order))
    assert m < 7 or len(set(orders)) > 1, "epochs must be shuffled anew"


@pytest.mark.parametrize("kind", ["minibatch", "nice", "uniform"])
def test_without_replacement(kind: str) -> None:
    """No sample twice in a step."""
    for step in range(50):
        batch = drawn(made(kind, 4), 12, step)
        assert len(set(batch)) == len(batch) == made(kind, 4).size(12)


def test_multi_draws_with_replacement() -> None:
    """Some step has a sample twice; even tau = m draws."""
    estimator = made("multi", 10)
    batches = [drawn(estimator, 10, step) for step in range(20)]
    assert all(len(batch) == 10 for batch in batches)
    assert any(len(set(batch)) < 10 for batch in batches)


@pytest.mark.parametrize("kind", ["full", "minibatch", "nice"])
def test_all_samples_come_as_they_lie(kind: str) -> None:
    """A step that takes all samples needs no index: the gradient is the full one, in the stored order."""
    assert made(kind, 10, batch_size=10).indices(10, KEY, 0) is None


@pytest.mark.parametrize("kind", ["minibatch", "nice", "multi", "uniform"])
def test_seed_round_client_and_step_choose(kind: str) -> None:
    """The same key and step give the same samples; another seed, round, client or step gives others."""
    estimator = made(kind, 8, batch_size=8)
    keys = [((1, 2, 3), 0), ((2, 2, 3), 0), ((1, 1, 3), 0), ((1, 2, 4), 0), ((1, 2, 3), 1)]
    found = []
    for key, step in keys:
        once, again = estimator.indices(1000, key, step), estimator.indices(1000, key, step)
        assert once is not None
        assert torch.equal(once, again)
        found.append(tuple(once.tolist()))
    assert len(set(found)) == len(found)


def subsets(kind: str, m: int, tau: int, steps: int) -> Counter[tuple[int, ...]]:
    """How often each batch (sorted, or in order with replacement) is drawn."""
    estimator = made(kind, tau)
    batches = (drawn(estimator, m, k) for k in range(steps))
    return Counter(tuple(batch if kind == "multi" else sorted(batch)) for batch in batches)


@pytest.mark.parametrize(
    ("kind", "m", "tau", "outcomes"),
    [
        ("nice", 5, 2, [*itertools.combinations(range(5), 2)]),
        ("multi", 3, 2, [*itertools.product(range(3), repeat=2)]),
        ("uniform", 6, 1, [(j,) for j in range(6)]),
    ],
)
def test_every_batch_is_as_likely(kind: str, m: int, tau: int, outcomes: list[tuple[int, ...]]) -> None:
    """The law is uniform over all subsets (nice), all sequences (multi), all samples (uniform): chi-square."""
    steps = 3000
    counts = subsets(kind, m, tau, steps)
    assert set(counts) == set(outcomes)
    expected = steps / len(outcomes)
    statistic = sum((count - expected) ** 2 / expected for count in counts.values())
    freedom = len(outcomes) - 1
    assert statistic < freedom + 4.5 * math.sqrt(2 * freedom)


def gradients(m: int) -> Tensor:
    """∇f_ij of m samples, `[m, 3]`, at some point."""
    return torch.randn(m, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("kind", "m", "tau"), [("nice", 6, 1), ("nice", 6, 2), ("nice", 6, 5), ("multi", 4, 3), ("uniform", 6, 1)]
)
def test_mean_and_variance_over_all_batches(kind: str, m: int, tau: int) -> None:
    """Over all equally likely batches, g is unbiased and its variance is the sheet's formula, exactly.

    SGD-NICE: E|g - ∇f_i|² = (m - τ)/(τ (m - 1)) · (1/m) Σ_j |∇f_ij - ∇f_i|²; with replacement, 1/τ of that spread.
    """
    each = gradients(m)
    mean = each.mean(0)
    spread = float((each - mean).square().sum(1).mean())
    batches = (
        [*itertools.product(range(m), repeat=tau)] if kind == "multi" else [*itertools.combinations(range(m), tau)]
    )
    g = torch.stack([each[list(batch)].mean(0) for batch in batches])
    variance = float((g - mean).square().sum(1).mean())
    assert torch.allclose(g.mean(0), mean, rtol=0, atol=1e-14)
    formula = spread / tau if kind == "multi" else (m - tau) / (tau * (m - 1)) * spread
    assert variance == pytest.approx(formula, rel=1e-12)


@pytest.mark.parametrize(("kind", "m", "tau"), [("nice", 20, 6), ("multi", 20, 6), ("uniform", 20, 1)])
def test_mean_and_variance_of_what_is_drawn(kind: str, m: int, tau: int) -> None:
    """What the estimator draws over 3,000 steps has that mean and that variance, within five standard errors."""
    each, steps = gradients(m), 3000
    mean = each.mean(0)
    g = torch.stack([each[drawn(made(kind, tau), m, k)].mean(0) for k in range(steps)])
    errors = (g - mean).square().sum(1)
    spread = float((each - mean).square().sum(1).mean())
    formula = spread / tau if kind == "multi" else (m - tau) / (tau * (m - 1)) * spread
    assert abs(float(errors.mean()) - formula) < 5 * float(errors.std()) / math.sqrt(steps)
    assert float((g.mean(0) - mean).norm()) < 5 * math.sqrt(formula / steps)


@pytest.mark.parametrize("numbers", [1, 40, 1 << 16])
def test_orders_drawn_together_are_each_clients_own(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of clients with as many samples or not, a few or many at once, in early and late epochs, in any order asked."""
    monkeypatch.setattr("fl_core.estimators._NUMBERS", numbers)
    estimator, sizes = made("minibatch"), np.array([7, 7, 7, 30, 4, 1, 7, 300] * 12)
    clients = [3 * k for k in range(len(sizes))]
    orders = Orders(estimator, (1, 2), clients, lambda some: sizes[some // 3])
    for row in [*range(len(sizes)), 5, 90, 4]:
        for epoch in (0, 1, 15, 16, 40):
            expected = estimator.order(int(sizes[row]), (1, 2, clients[row]), epoch)
            assert torch.equal(orders.of(row, epoch), expected)
