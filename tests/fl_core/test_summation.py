"""Sums over clients: one definition, whatever the length, the weights, the type, and whoever sums."""

from __future__ import annotations

import tracemalloc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fl_core.summation import _sum_on_device, add_row, add_rows, summed, wide_type

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def by_definition(stacks: list[Tensor], weights: list[float] | None) -> Tensor:
    """Each product rounded, then added to its stack's sum in order; the stacks' sums then added in order."""
    wide = wide_type(stacks[0].dtype, weights is not None)
    left = iter(weights or [])
    sums = []
    for stack in stacks:
        part = torch.zeros(stack.shape[1:], dtype=wide)
        for row in stack:
            product = row.to(wide) if weights is None else row.to(wide) * torch.tensor(next(left), dtype=wide)
            part = part + product
        sums.append(part)
    total = sums[0]
    for part in sums[1:]:
        total = total + part
    return total


def stacks_of(seed: int, sizes: list[int], d: int, dtype: torch.dtype) -> list[Tensor]:
    """Random numbers of very different sizes, so that every rounding shows; a negative zero among them."""
    source = torch.Generator().manual_seed(seed)
    found = []
    for size in sizes:
        rows = torch.randn(size, d, generator=source) * 2.0 ** torch.randint(-8, 9, (size, d), generator=source)
        rows[:, 0] = -0.0
        found.append(rows.to(dtype))
    return found


def same(a: Tensor, b: Tensor) -> bool:
    """Bit for bit, the sign of a zero too."""
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    d=st.sampled_from([1, 2, 7, 100, 4096, 4097, 21_845, 21_846, 32_768, 32_769, 70_001]),
    dtype=st.sampled_from(DTYPES),
    weighted=st.booleans(),
    seed=st.integers(0, 99),
)
def test_every_sum_is_the_definition(sizes: list[int], d: int, dtype: torch.dtype, weighted: bool, seed: int) -> None:
    """A product is rounded before it is added, short vectors or long: at once, stack by stack, or row by row."""
    stacks = stacks_of(seed, sizes, d, dtype)
    weights = [1.0 + (seed * k) % 977 + k / 3 for k in range(sum(sizes))] if weighted else None
    expected = by_definition(stacks, weights)
    assert same(summed(stacks, weights), expected)
    start = 0
    total: Tensor | None = None
    for stack in stacks:
        of_stack = None if weights is None else weights[start : start + len(stack)]
        running = torch.zeros_like(expected)
        for number, row in enumerate(stack):
            add_row(running, row, None if of_stack is None else of_stack[number])
        assert same(running, by_definition([stack], of_stack))
        if total is None:
            total = running
        else:
            add_rows(total, stack, of_stack)
        start += len(stack)
    assert total is not None
    assert same(total, expected)


@pytest.mark.parametrize("clients", [300, 1000])
def test_many_rows_are_summed_in_pieces(clients: int) -> None:
    """More rows than a block of products of any width can hold: the pieces do not show."""
    (rows,) = stacks_of(clients, [clients], 3001, torch.float32)
    weights = [float(3 + k % 50) for k in range(clients)]
    assert same(summed([rows], weights), by_definition([rows], weights))


def test_rows_that_need_gradients_lie_apart_or_have_more_axes() -> None:
    """Only their numbers count: the same bits as of a plain stack."""
    (rows,) = stacks_of(1, [9], 6000, torch.float32)
    weights = [float(k) for k in range(3, 12)]
    expected = by_definition([rows], weights)
    for other in (rows.clone().requires_grad_(), rows.t().contiguous().t(), torch.cat([rows, rows], 1)[:, :6000]):
        assert same(summed([other], weights), expected)
        assert same(summed([other], None), by_definition([rows], None))
    assert same(summed([rows.view(9, 20, 300)], weights), expected.view(20, 300))


def test_integers_are_exact_and_weighted_ones_are_float64() -> None:
    """Counts beyond 2^24 and booleans lose nothing."""
    assert summed([torch.tensor([2**40, 3])], None).item() == 2**40 + 3
    assert summed([torch.tensor([True, True, False])], None).item() == 2
    found = summed([torch.tensor([2**40, 3])], [0.0, 0.5])
    assert (found.dtype, found.item()) == (torch.float64, 1.5)


def test_rows_of_nothing_sum_to_nothing_and_others_do_not_fit() -> None:
    """A field may be empty; rows of two shapes are refused, not cut."""
    for weights in (None, [1.0, 2.0]):
        assert summed([torch.zeros(2, 0)], weights).shape == (0,)
        with pytest.raises(ValueError, match="of one sum"):
            summed([torch.ones(1, 1 << 15), torch.ones(1, 1 << 16)], weights)


def test_what_overflows_is_infinite_and_says_nothing() -> None:
    """As in torch: whether a sum is finite is looked at where the model is."""
    rows = torch.full((2, 5), 3e38)
    assert torch.isinf(summed([rows], None)).all()
    assert torch.isinf(summed([rows], [2.0, 1.0])).all()
    assert torch.isnan(summed([torch.stack([rows[0], -rows[1]])], [2.0, 2.0])).all()


def test_sums_of_a_long_vector_take_little_beside_it() -> None:
    """Products lie in a block of a megabyte, not in a copy of the rows."""
    rows = torch.ones(4, 3_000_000)
    tracemalloc.start()
    try:
        total = summed([rows], [1.0, 2.0, 3.0, 4.0])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert torch.equal(total, torch.full_like(total, 10.0))
    assert total.nbytes < peak < total.nbytes + (4 << 20)


@pytest.mark.parametrize("weighted", [False, True])
def test_another_device_adds_the_same(weighted: bool) -> None:
    """The additions of a GPU, here on the CPU: a product, then a sum, in two operations."""
    stacks = stacks_of(5, [3, 2], 5000, torch.float16)
    weights = [1.5, 3.0, 7.0, 11.0, 1 / 3] if weighted else None
    total = torch.full((5000,), 7.0)
    _sum_on_device(total, stacks, weights, True)
    assert same(total, summed(stacks, weights))
    _sum_on_device(total, stacks, weights, False)
    expected = summed(stacks, weights)
    for number, stack in enumerate(stacks):
        add_rows(expected, stack, None if weights is None else (weights[:3], weights[3:])[number])
    assert same(total, expected)
