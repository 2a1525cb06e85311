"""Sums over replies: exact, in an order that nobody's arrival changes, and zero when nobody came."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from fl_core.replies import CohortReplies, FieldSums, Replies
from fl_core.state import State


class Reply(State):
    """What these clients send."""

    delta: Tensor
    count: int


D = 7


def replies(sizes: Sequence[int], dtype: torch.dtype = torch.float64, seed: int = 0) -> Replies:
    """Cohorts of these sizes; clients 0, 10, 20, … with 1, 2, 3, … samples."""
    source = torch.Generator().manual_seed(seed)
    cohorts, k = [], 0
    for size in sizes:
        clients = tuple(10 * (k + row) for row in range(size))
        fields = {
            "delta": torch.randn(size, D, dtype=torch.float64, generator=source).to(dtype),
            "count": torch.arange(k, k + size),
        }
        cohorts.append(CohortReplies(clients, tuple(k + row + 1 for row in range(size)), fields))
        k += size
    return Replies(cohorts, torch.zeros(D, dtype=dtype), Reply)


def exact(r: Replies, weights: Sequence[float] | None = None) -> list[Fraction]:
    """Σ w_i delta_i in rational arithmetic."""
    w = [1.0] * len(r) if weights is None else weights
    rows = [record.delta for record in r]
    return [
        sum((Fraction(w[i]) * Fraction(float(row[j])) for i, row in enumerate(rows)), Fraction(0)) for j in range(D)
    ]


def close(found: Tensor, expected: list[Fraction], tolerance: float) -> bool:
    """Equal but for rounding."""
    return all(abs(Fraction(float(a)) - b) <= Fraction(tolerance) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("sizes", [[5], [1, 1, 1, 1, 1], [2, 2, 1]])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-5)])
def test_sums_and_means_are_the_exact_ones(sizes: list[int], dtype: torch.dtype, tolerance: float) -> None:
    """Plain, weighted and data-size weighted sums and means agree with rational arithmetic, however cohorts are cut."""
    r = replies(sizes, dtype)
    w = [0.5, -1.0, 2.0, 0.25, 3.0]
    assert close(r.sum("delta"), exact(r), tolerance)
    assert close(r.sum("delta", w), exact(r, w), tolerance)
    assert close(r.mean("delta"), [v / 5 for v in exact(r)], tolerance)
    assert close(r.weighted_mean("delta"), [v / 15 for v in exact(r, [1, 2, 3, 4, 5])], tolerance)
    assert close(r.weighted_mean("delta", w), [v / Fraction(4.75) for v in exact(r, w)], tolerance)
    assert r.sum("delta").dtype == r.mean("delta").dtype == dtype


def test_the_order_of_summation_is_by_cohort() -> None:
    """Bit for bit the left fold over each cohort's clients, then over the cohorts: another order gives other bits."""
    r = replies([3, 1, 4], torch.float32)
    parts = []
    for cohort in r.cohorts:
        part = torch.zeros(D)
        for row in cohort.fields["delta"]:
            part = part + row
        parts.append(part)
    assert torch.equal(r.sum("delta"), (parts[0] + parts[1]) + parts[2])
    others = [
        Replies([r.cohorts[k] for k in order], torch.zeros(D), Reply).sum("delta")
        for order in itertools.permutations(range(3))
    ]
    assert any(not torch.equal(r.sum("delta"), other) for other in others)


def test_records_clients_and_sizes_come_in_order() -> None:
    """Iterating gives the Reply records of all cohorts; ids and sizes of samples are in the same order."""
    r = replies([2, 1])
    assert (r.clients, r.m, len(r)) == ((0, 10, 20), (1, 2, 3), 3)
    records = list(r)
    assert all(isinstance(record, Reply) for record in records)
    assert [int(record.count) for record in records] == [0, 1, 2]
    assert torch.equal(records[2].delta, r.cohorts[1].fields["delta"][0])


def test_replies_are_not_changed_by_summing() -> None:
    """Sums are fresh memory: asking twice gives the same."""
    r = replies([1, 2])
    first = r.sum("delta")
    first.add_(100)
    assert close(r.sum("delta"), exact(r), 1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_nobody_came(dtype: torch.dtype) -> None:
    """Without participants (Poisson sampling) sums and all means are zero [d], not NaN."""
    r = replies([], dtype)
    for value in (r.sum("delta"), r.mean("delta"), r.weighted_mean("delta"), r.weighted_mean("delta", [])):
        assert torch.equal(value, torch.zeros(D, dtype=dtype))
    assert (len(r), r.clients, list(r)) == (0, (), [])


def test_weights_that_sum_to_zero() -> None:
    """Nobody's reply counts: the mean is zero, not NaN."""
    assert torch.equal(replies([2, 1], torch.float32).weighted_mean("delta", [0, 0, 0]), torch.zeros(D))


def test_small_types_are_summed_in_float32() -> None:
    """bfloat16 replies are added in float32 and rounded once: 256 ones and a half are not 256."""
    ones = torch.ones(512, 1, dtype=torch.bfloat16)
    ones[-1] = 2.0
    r = Replies([CohortReplies(tuple(range(512)), (1,) * 512, {"delta": ones})], torch.zeros(1), Reply)
    assert r.sum("delta").item() == torch.tensor(513.0).bfloat16().item() == 512.0
    assert r.mean("delta").item() == torch.tensor(513 / 512).bfloat16().item()
    half = Replies([CohortReplies((0, 1), (1, 1), {"delta": ones[:2] * 100})], torch.zeros(1), Reply)
    assert half.sum("delta").dtype == torch.bfloat16


def test_a_float16_mean_does_not_overflow() -> None:
    """Weights times replies may pass 65,504 where their mean is an ordinary number."""
    fields = {"delta": torch.full((4, D), 100.0, dtype=torch.float16)}
    r = Replies([CohortReplies((0, 1, 2, 3), (5000,) * 4, fields)], torch.zeros(D, dtype=torch.float16), Reply)
    assert torch.equal(r.weighted_mean("delta"), torch.full((D,), 100.0, dtype=torch.float16))
    assert torch.equal(r.mean("delta"), torch.full((D,), 100.0, dtype=torch.float16))


def test_integers_are_summed_exactly() -> None:
    """Counts beyond 2^24 lose nothing; with weights they are numbers, not cut down to integers."""
    fields = {"count": torch.tensor([2**40, 3]), "delta": torch.zeros(2, D)}
    r = Replies([CohortReplies((0, 1), (1, 3), fields)], torch.zeros(D), Reply)
    assert r.sum("count").item() == 2**40 + 3
    assert r.sum("count").dtype == torch.int64
    assert r.sum("count", [0.0, 0.5]).item() == 1.5
    assert r.mean("count").item() == (2**40 + 3) / 2
    assert r.weighted_mean("count", [0.0, 0.5]).item() == 3.0


def test_booleans_are_counted() -> None:
    """The sum of a coin is how often it was heads."""
    fields = {"count": torch.tensor([True, True, False])}
    assert Replies([CohortReplies((0, 1, 2), (1, 1, 1), fields)], torch.zeros(D), Reply).sum("count").item() == 2


def test_one_weight_a_client() -> None:
    """Too few or too many weights are an error, not a sum over some."""
    for weights in ([1.0], [1.0, 2.0, 3.0]):
        with pytest.raises(ValueError, match="weights for the replies of 2 clients"):
            replies([2]).sum("delta", weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("d", [1, 2, 3, 20, 4096, 4097])
def test_a_cohort_is_summed_row_after_row(d: int, dtype: torch.dtype) -> None:
    """In one call or client by client, short vectors or long: the same bits, a negative zero among them."""
    source = torch.Generator().manual_seed(d)
    for clients in (1, 7, 100):
        rows = torch.randn(clients, d, dtype=torch.float64, generator=source).to(dtype)
        rows[:, 0] = -0.0 if clients == 7 else rows[:, 0]
        m = tuple(range(3, 3 + clients))
        one_by_one = FieldSums.zeros(rows[0], ("one", "size"))
        for row, samples in zip(rows, m, strict=True):
            one_by_one.add_row(row, samples)
        for kind, total in FieldSums.of_rows(rows, m, ("one", "size")).totals.items():
            assert total.numpy().tobytes() == one_by_one.totals[kind].numpy().tobytes()
        plain = torch.zeros(d, dtype=one_by_one.totals["one"].dtype)
        for row in rows:
            plain = plain + row
        assert plain.numpy().tobytes() == one_by_one.totals["one"].numpy().tobytes()


def test_neither_pieces_nor_threads_nor_alignment_show_in_a_sum() -> None:
    """A vector longer than a piece, by one thread or four, its rows apart or shifted: number for number alike."""
    d = 3 * 32768 + 5
    source = torch.Generator().manual_seed(3)
    wide = torch.randn(9, d + 3, generator=source)
    expected = torch.zeros(d)
    for row in wide[:, 1 : d + 1]:
        expected = expected + row
    before = torch.get_num_threads()
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            for rows in (wide[:, 1 : d + 1], wide[:, 1 : d + 1].contiguous(), wide[:, 1 : d + 1].t().contiguous().t()):
                total = FieldSums.of_rows(rows, (1,) * 9, ("one",)).totals["one"]
                assert total.numpy().tobytes() == expected.numpy().tobytes()
    finally:
        torch.set_num_threads(before)


def test_rows_that_are_one_row_are_added_in_order() -> None:
    """A stack without memory of its own (stride 0) is not summed in pairs."""
    row = torch.tensor([0.1, 0.7, 0.3])
    expected = torch.zeros(3)
    for _ in range(40):
        expected = expected + row
    total = FieldSums.of_rows(row.expand(40, 3), (1,) * 40, ("one",)).totals["one"]
    assert total.numpy().tobytes() == expected.numpy().tobytes()


def test_cohorts_of_other_shapes_are_named() -> None:
    """The field is named where clients of two cohorts sent different shapes."""
    cohorts = [CohortReplies((k,), (1,), {"delta": torch.zeros(1, D + k)}) for k in range(2)]
    with pytest.raises(ValueError, match=rf"^Reply\.delta: the clients of a round must send .*\[{D}\] and \[{D + 1}\]"):
        Replies(cohorts, torch.zeros(D), Reply).mean("delta")
