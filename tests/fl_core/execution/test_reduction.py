"""Sums made where replies are computed: the bytes of the rows' sums, whoever made them and whenever they came."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compressors.build import build
from compressors.compressor import Layout
from compressors.identity import Identity
from fl_core.client import LocalWork, Message
from fl_core.errors import PlugInError
from fl_core.estimators import Estimator
from fl_core.execution.cohort import CodedField, CohortResult, CohortWork
from fl_core.execution.reduction import Gathering, reduced
from fl_core.execution.running_sums import RunningSums
from fl_core.replies import WEIGHTINGS, CohortReplies, FieldSums, Replies
from fl_core.state import State

D = 5
BOTH = {"v": WEIGHTINGS, "w": WEIGHTINGS}
LAYOUT = Layout(D, torch.float32)


class Reply(State):
    """What these clients send."""

    v: Tensor
    w: Message


def local_work(uplink: str = "identity", **options: Any) -> LocalWork:
    """All that matters here is the operator."""
    return LocalWork(Estimator("full", 1, None, None, 1), ("sgd", {"lr": 0.1}), build(uplink, options), 3)


def rows(number: int, *shape: int) -> Tensor:
    """Random float32 numbers, the same for the same number."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(number))


def whole(number: int, size: int, asked: Any = BOTH) -> tuple[CohortWork, CohortResult]:
    """A cohort's task and its result with every row: v dense, w as identity's bytes."""
    clients = tuple(range(10 * number, 10 * number + size))
    payload = rows(1000 + number, size, D).view(torch.uint8).numpy().reshape(-1)
    metrics = {name: [float(k + 1) for k in range(size)] for name in ("m", "loss_sum", "loss_count", "oracle_calls")}
    coded = {"w": CodedField(0, (4 * D,) * size, payload)}
    result = CohortResult(clients, coded, {"v": rows(number, size, D)}, {}, metrics | {"seconds_s": [0.0] * size})
    return CohortWork(1, number, clients, {}, {}, asked), result


def of_rows(results: list[CohortResult]) -> Replies:
    """The round's replies with every row."""
    cohorts = []
    for result in results:
        w = Identity().decode(result.coded["w"].payload, result.coded["w"].sizes, LAYOUT, [torch.Generator()] * 9)
        cohorts.append(CohortReplies(result.clients, result.m, {"v": result.dense["v"], "w": w}))
    return Replies(cohorts, torch.zeros(D), Reply)


def asked_of(replies: Replies, field: str) -> list[Tensor]:
    """All that sums tell."""
    return [replies.sum(field), replies.mean(field), replies.weighted_mean(field), replies.sum(field, replies.m)]


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 9),
    d=st.sampled_from([1, 2, 7, 33, 1000, (1 << 15) - 1, 1 << 15, (1 << 12) + 1, (1 << 15) + 5, 40_000, 70_001]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_one_row_after_the_other_is_the_sum_of_the_rows(size: int, d: int, dtype: torch.dtype, seed: int) -> None:
    """In every bit, for every type and length: a worker may add replies as they are made."""
    stack = rows(seed, size, d).to(dtype)
    m = [1 + (seed * k) % 977 for k in range(size)]
    running = FieldSums.zeros(stack[0], WEIGHTINGS)
    for row, weight in zip(stack, m, strict=True):
        running.add_row(row, weight)
    at_once = FieldSums.of_rows(stack, m, WEIGHTINGS)
    replies = Replies([CohortReplies(tuple(range(size)), tuple(m), {"v": stack})], torch.zeros(d), None)
    for kind, weights in (("one", None), ("size", m)):
        total, _ = replies._total("v", weights)
        assert torch.equal(running.totals[kind], at_once.totals[kind])  # type: ignore[index]
        assert torch.equal(at_once.totals[kind], total)  # type: ignore[index]
    assert at_once.row_bytes == stack[0].nbytes
    expected = FieldSums.of_rows(stack.flip(0), m[::-1], WEIGHTINGS)
    expected.add(at_once)
    added = FieldSums.of_rows(stack.flip(0), m[::-1], WEIGHTINGS)
    added.add_rows(stack, m)
    assert all(torch.equal(added.totals[kind], total) for kind, total in expected.totals.items())


def test_a_worker_sends_sums_where_they_are_fewer() -> None:
    """Of a cohort larger than the kinds of sums asked for, whether rows came whole or as identity's bytes."""
    for size, kinds, summed in ((1, ("one",), False), (2, ("size",), True), (2, WEIGHTINGS, False)):
        work, result = whole(1, size, {"v": kinds, "w": kinds})
        found = reduced(result, work, Identity(), LAYOUT)
        assert set(found.sums) == ({"v", "w"} if summed else set())
        assert (set(found.dense), set(found.coded)) == ((set(), set()) if summed else ({"v"}, {"w"}))
        assert found.bits == result.bits == 8 * size * 2 * 4 * D
    assert reduced(result, whole(1, 2, {})[0], Identity(), LAYOUT).sums == {}


def test_a_compressed_reply_stays_what_it_is() -> None:
    """The messages of a compressor are smaller than their sum; integers and single numbers stay rows too."""
    work, result = whole(1, 4)
    found = reduced(result, work, build("randk", {"k": 2}), LAYOUT)
    assert (set(found.sums), set(found.coded)) == ({"v"}, {"w"})
    for odd in (torch.arange(8).reshape(4, 2), torch.rand(4), torch.rand(4, 1), torch.zeros(4, 0)):
        kept = CohortResult(result.clients, {}, {"v": odd}, {}, result.metrics)
        assert reduced(kept, work, Identity(), LAYOUT).dense == {"v": odd}


def test_a_running_sum_takes_what_reduction_would() -> None:
    """Client by client the same fields are summed, to the same bits, and nothing of them is kept."""
    work, result = whole(2, 3)
    message = Identity().decode(result.coded["w"].payload, result.coded["w"].sizes, LAYOUT, [torch.Generator()] * 3)
    running = RunningSums(work.asked, Identity(), 3)
    for row in range(3):
        reply = Reply(v=result.dense["v"][row], w=Message(message[row], np.empty(0, np.uint8), 0))
        running.take(reply, result.m[row])
        assert vars(reply) == {"v": None, "w": None}
    expected = reduced(result, work, Identity(), LAYOUT).sums
    assert running.sums.keys() == expected.keys() == {"v", "w"}
    for name, sums in expected.items():
        assert all(torch.equal(running.sums[name].totals[kind], total) for kind, total in sums.totals.items())
    few = RunningSums(work.asked, Identity(), 2)
    reply = Reply(v=result.dense["v"][0], w=Message(message[0], np.empty(0, np.uint8), 0))
    few.take(reply, 1)
    assert few.sums == {}
    assert reply.v is not None


def gathered(results: list[CohortResult], works: list[CohortWork], order: Any) -> tuple[Replies, Gathering]:
    """What a master makes of the results that come in this order."""
    gathering = Gathering(1, works, local_work(), LAYOUT)
    for k in order:
        gathering.add(works[k].index, results[k])
        gathering.fold()
    found = gathering.gathered()
    return Replies(found.cohorts, torch.zeros(D), Reply, found.sums), gathering


def test_any_order_of_arrival_gives_the_bytes_of_the_rows() -> None:
    """Every order of four cohorts, some reduced by a worker and some not, some of one client: the same bits."""
    pairs = [whole(number, size) for number, size in enumerate((3, 1, 4, 2))]
    works = [work for work, _ in pairs]
    expected = of_rows([result for _, result in pairs])
    assert expected.clients == (0, 1, 2, 10, 20, 21, 22, 23, 30, 31)
    for order in itertools.permutations(range(4)):
        results = [reduced(r, w, Identity(), LAYOUT) if k in order[:2] else r for k, (w, r) in enumerate(pairs)]
        found, _ = gathered(results, works, order)
        assert (found.clients, found.m) == (expected.clients, expected.m)
        for field in ("v", "w"):
            for ours, theirs in zip(asked_of(found, field), asked_of(expected, field), strict=True):
                assert torch.equal(ours, theirs)


def test_only_what_came_early_is_held() -> None:
    """A cohort that is next in order is added up and let go; one that is not waits for those before it."""
    pairs = [whole(number, 3) for number in range(3)]
    gathering = Gathering(1, [work for work, _ in pairs], local_work(), LAYOUT)
    for index, waiting in ((2, {2}), (0, {2}), (1, set())):
        gathering.add(index, pairs[index][1])
        gathering.fold()
        assert set(gathering._held) == waiting
    found = gathering.gathered()
    assert found.bits == sum(result.bits for _, result in pairs)
    assert all(not cohort.fields for cohort in found.cohorts)


def test_says_when_much_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small results wait for the end of the round; many bytes do not."""
    pairs = [whole(number, 3) for number in range(2)]
    monkeypatch.setattr("fl_core.execution.reduction._MUCH_BYTES", 200)
    gathering = Gathering(1, [work for work, _ in pairs], local_work(), LAYOUT)
    assert not gathering.add(0, pairs[0][1])
    assert gathering.add(1, pairs[1][1])
    gathering.fold()
    assert gathering._held_bytes == 0


@pytest.mark.parametrize("kind", ["as it is", "read-only", "not aligned"])
def test_bytes_are_summed_where_they_lie(kind: str) -> None:
    """Identity's payload is not copied before its rows are added, unless it may not be looked at as numbers."""
    pairs = [whole(number, 3) for number in range(2)]
    expected = of_rows([result for _, result in pairs])
    for _, result in pairs:
        if kind == "as it is":
            continue
        moved = np.empty(result.coded["w"].payload.size + 1, np.uint8)[1:]
        moved[...] = result.coded["w"].payload
        moved.flags.writeable = kind != "read-only"
        result.coded["w"] = CodedField(0, result.coded["w"].sizes, moved)
    found, _ = gathered([result for _, result in pairs], [work for work, _ in pairs], (0, 1))
    for ours, theirs in zip(asked_of(found, "w"), asked_of(expected, "w"), strict=True):
        assert torch.equal(ours, theirs)
    found.sum("w").zero_()
    assert torch.equal(found.sum("w"), expected.sum("w")), "a sum is the caller's own"


def test_clients_must_send_alike() -> None:
    """Vectors from one cohort and nothing, or another shape, from the next: refused, not added up."""
    (first, one), (second, two) = whole(0, 3), whole(1, 3)
    for odd in (torch.zeros(3, 0), torch.rand(3, D + 1), torch.rand(3, D).double()):
        other = CohortResult(two.clients, two.coded, {"v": odd}, {}, two.metrics)
        for pair in ([one, other], [other, CohortResult(two.clients, two.coded, one.dense, {}, two.metrics)]):
            with pytest.raises(PlugInError, match=r"Reply\.v"):
                gathered(pair, [first, second], (0, 1))
