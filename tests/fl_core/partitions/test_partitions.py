"""Every partition: each sample once, no empty client, the same for the same generator; and each one's own law."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl_core import plugins
from fl_core.errors import ExperimentError
from fl_core.partitions import Indices, by_class, dirichlet, iid, natural, quantity_skew, shards, topped_up
from fl_core.partitions import sorted as by_order

NEEDED: dict[str, dict[str, Any]] = {"dirichlet": {"alpha": 0.3}, "quantity-skew": {"alpha": 0.3}}
"""Options without which a partition cannot be used."""


def source(seed: int = 1) -> np.random.Generator:
    """A generator of its own."""
    return np.random.Generator(np.random.PCG64(seed))


def parts_of(name: str, targets: torch.Tensor, clients: int, seed: int = 1, **options: Any) -> list[Indices]:
    """The partition by name, with the options it needs; samples in turn are of as many persons as there are clients."""
    ids = torch.arange(len(targets)) % clients
    context = {"targets": targets, "clients": clients, "generator": source(seed), "ids": ids}
    split = plugins.resolve("partition", name)
    parts: list[Indices] = plugins.call("partition", split, context, {**NEEDED.get(name, {}), **options})
    return parts


@st.composite
def problems(draw: st.DrawFn) -> tuple[torch.Tensor, int, int]:
    """Labels, clients and a seed; labels may be rare, missing, or only one."""
    clients = draw(st.integers(1, 12))
    labels = draw(st.lists(st.integers(0, 9), min_size=2 * clients, max_size=120))
    return torch.tensor(labels), clients, draw(st.integers(0, 2**32))


@pytest.mark.parametrize("name", plugins.names("partition"))
@given(problem=problems())
def test_each_sample_goes_to_one_client_and_no_client_goes_without(
    name: str, problem: tuple[torch.Tensor, int, int]
) -> None:
    """The contract of every partition, also those added later."""
    targets, clients, seed = problem
    parts = parts_of(name, targets, clients, seed)
    assert len(parts) == clients
    assert all(len(part) > 0 for part in parts)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(targets)))
    again = parts_of(name, targets, clients, seed)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


@pytest.mark.parametrize("name", sorted({*plugins.names("partition")} - {"natural"}))
def test_too_few_samples_are_refused(name: str) -> None:
    """More clients than samples is the user's error, not an endless loop or an empty client."""
    with pytest.raises(ExperimentError, match=r"^\[clients\] total: 3 clients cannot have (one|2) of 2 samples each$"):
        parts_of(name, torch.tensor([0, 1]), 3)


@pytest.mark.parametrize("name", ["dirichlet", "shards", "by-class", "sorted"])
def test_a_split_by_label_needs_labels(name: str) -> None:
    """Regression targets have no labels to split by."""
    with pytest.raises(ExperimentError, match="splits by label, but the targets of this data set are numbers"):
        parts_of(name, torch.tensor([0.5, 1.0, 2.0, 3.0]), 2)


@given(alpha=st.floats(1e-320, 1e6), min_size=st.integers(1, 4), seed=st.integers(0, 1000))
def test_dirichlet_ends_at_any_alpha(alpha: float, min_size: int, seed: int) -> None:
    """Down to subnormal alpha, and with exactly as many samples as the minimum needs."""
    targets = torch.arange(24) % 5
    parts = dirichlet.split(targets, 24 // min_size, source(seed), alpha=alpha, min_size=min_size)
    assert min(len(part) for part in parts) >= min_size
    assert sum(len(part) for part in parts) == 24


def test_dirichlet_follows_its_law() -> None:
    """A client's share of one label has the mean 1/n and the variance of Dir(alpha): (1/n)(1-1/n)/(n alpha+1)."""
    n, alpha, draws = 5, 0.7, 800
    targets = torch.zeros(1000, dtype=torch.int64)
    sizes = np.array(
        [[len(part) for part in dirichlet.split(targets, n, source(seed), alpha=alpha)] for seed in range(draws)]
    )
    shares = sizes / 1000
    variance = (1 / n) * (1 - 1 / n) / (n * alpha + 1)
    assert np.abs(shares.mean(axis=0) - 1 / n).max() < 4 * np.sqrt(variance / draws)
    assert np.abs(shares.var(axis=0) / variance - 1).max() < 0.2


def test_dirichlet_at_large_alpha_is_even_and_at_small_alpha_is_not() -> None:
    """alpha goes from one label a client to all labels alike."""
    targets = torch.arange(1000) % 10
    for alpha, least, most in ((1e5, 9.9, 10.0), (0.01, 0.0, 3.0)):
        parts = dirichlet.split(targets, 10, source(), alpha=alpha)
        labels = np.mean([len(np.unique(targets.numpy()[part])) for part in parts])
        assert least <= labels <= most


def test_iid_sizes_differ_by_at_most_one() -> None:
    """10 samples over 3 clients: 4, 3, 3."""
    assert [len(part) for part in iid.split(torch.zeros(10), 3, source())] == [4, 3, 3]


def test_shards_give_few_labels() -> None:
    """Two shards of one label each: at most two labels a client, equal sizes."""
    targets = torch.arange(1000) % 10
    parts = shards.split(targets, 50, source(), per_client=2)
    assert {len(part) for part in parts} == {10 * 2}
    assert max(len(np.unique(targets.numpy()[part])) for part in parts) <= 2


@pytest.mark.parametrize(("clients", "k"), [(10, 1), (10, 2), (20, 3), (4, 1)])
def test_by_class_gives_the_labels_it_says(clients: int, k: int) -> None:
    """k labels a client; where there are more labels than places, every label still has an owner."""
    targets = torch.arange(1000) % 10
    parts = by_class.split(targets, clients, source(), labels_per_client=k)
    most = max(len(np.unique(targets.numpy()[part])) for part in parts)
    assert most == (k if clients * k >= 10 else -(-10 // clients))


def test_quantity_skew_skews_sizes_only() -> None:
    """Sizes differ by much, and no label prefers a client."""
    targets = torch.arange(10000) % 2
    parts = quantity_skew.split(targets, 10, source(), alpha=0.5)
    sizes = [len(part) for part in parts]
    largest = parts[int(np.argmax(sizes))]
    assert max(sizes) > 4 * min(sizes)
    assert abs(float(targets.numpy()[largest].mean()) - 0.5) < 0.05


def test_sorted_is_consecutive_labels() -> None:
    """Client i has the i-th piece of the samples in the order of their labels."""
    parts = by_order.split(torch.tensor([2, 0, 1, 0, 2, 1]), 3, source())
    assert [part.tolist() for part in parts] == [[1, 3], [2, 5], [0, 4]]


def test_natural_is_by_person() -> None:
    """Client k has all samples of the k-th id, in their order, whatever their number."""
    ids = torch.tensor([7, 2, 7, 2, 2, 9])
    parts = natural.split(torch.zeros(6), 3, source(), ids)
    assert [part.tolist() for part in parts] == [[1, 3, 4], [0, 2], [5]]


def test_natural_draws_where_there_are_more_persons_than_clients() -> None:
    """Every one is drawn as often as any other, those with too few samples never, and the draw is the generator's."""
    ids = torch.tensor([0, 0, 1, 1, 2, 3, 3, 3])
    drawn = [natural.split(torch.zeros(8), 2, source(seed), ids, min_size=2) for seed in range(1000)]
    owners = [tuple(int(ids[part[0]]) for part in parts) for parts in drawn]
    assert set(owners) == {(0, 1), (0, 3), (1, 3)}
    assert all(270 < owners.count(pair) < 400 for pair in set(owners))
    again = natural.split(torch.zeros(8), 2, source(5), ids, min_size=2)
    assert all(np.array_equal(a, b) for a, b in zip(again, drawn[5], strict=True))


def test_natural_needs_persons_enough() -> None:
    """Without ids, or with fewer than there are clients, it says so."""
    with pytest.raises(ExperimentError, match="nothing says whose these 3 are"):
        natural.split(torch.zeros(3), 2, source(), None)
    message = r"^\[clients\] total: is 3, but the data comes in 1 clients of at least 2 samples$"
    with pytest.raises(ExperimentError, match=message):
        natural.split(torch.zeros(3), 3, source(), torch.tensor([0, 0, 1]), min_size=2)


def test_topping_up_takes_from_the_largest() -> None:
    """Only the largest gives, only as much as is needed, and the others are left alone."""
    parts = topped_up([np.arange(6), np.array([], dtype=np.int64), np.array([6, 7])], 2, source())
    assert [len(part) for part in parts] == [4, 2, 2]
    assert parts[2].tolist() == [6, 7]
