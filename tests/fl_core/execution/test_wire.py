"""Broadcasts, tasks, results and shards as messages and back, bit for bit; and what is refused of a peer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from fl_core.execution import wire
from fl_core.execution.cohort import CodedField, CohortResult, CohortWork, Skipped
from fl_core.replies import FieldSums
from fl_core.server import Broadcast
from protocol import messages
from protocol.errors import MessageError
from protocol.fields import Field, Summed, TensorSpec
from protocol.headers import encode_header

Sent = Callable[[Any], Any]
KINDS = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
G = 3


def stacks(rows: int = G) -> dict[str, torch.Tensor]:
    """A stack of every kind: [G, d] in each type, one number a row, nothing at all a row."""
    found = {str(kind): torch.arange(rows * 4).reshape(rows, 4).to(kind) for kind in KINDS}
    return found | {"number": torch.linspace(0.1, 0.3, rows, dtype=torch.float64), "empty": torch.zeros(rows, 0)}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Names, types, shapes and bits."""
    return a.keys() == b.keys() and all(
        v.dtype == b[k].dtype and v.shape == b[k].shape and torch.equal(v, b[k]) for k, v in a.items()
    )


def result(rows: int = G) -> CohortResult:
    """What a cohort might send back."""
    payload = np.arange(5 + 7 + 0, dtype=np.uint8)
    names = ("m", "loss_sum", "loss_count", "oracle_calls", "seconds_s")
    return CohortResult(
        (4, 7, 9)[:rows],
        {"delta": CodedField(0, (5, 7, 0), payload), "change": CodedField(3, (1, 1, 1), payload[:3])},
        stacks(rows),
        {"h": torch.randn(rows, 6), "visits": torch.tensor([1, 2, 3])},
        {name: [float(k + 1) + 0.5 * (name == "loss_sum") for k in range(rows)] for name in names},
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_broadcast_comes_back(sent: Sent, dtype: torch.dtype) -> None:
    """x and every shared field: tensors of any shape, numbers as the numbers they are."""
    shared = {"c": torch.randn(6).to(dtype), "one": torch.tensor(0.5, dtype=dtype), "mask": torch.tensor([True, False])}
    numbers = {"coin": True, "count": 7, "rate": 0.1, "big": 2**62, "inf": float("inf")}
    x = torch.randn(6).to(dtype)
    message, buffers = wire.broadcast_message("run", Broadcast(5, x, {**shared, **numbers}))
    assert (message.run, message.round) == ("run", 5)
    back = wire.broadcast_of(*sent((message, buffers)))
    assert back.round == 5
    assert back.x.dtype == dtype
    assert torch.equal(back.x, x)
    assert same({k: back.shared[k] for k in shared}, shared)  # type: ignore[misc]
    found = {k: back.shared[k] for k in numbers}
    assert found == numbers
    assert {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in numbers.items()}


def test_a_field_may_have_any_name(sent: Sent) -> None:
    """A method whose Broadcast has a field x does not replace the model by it."""
    x, theirs = torch.ones(3), torch.zeros(3)
    back = wire.broadcast_of(
        *sent(wire.broadcast_message("run", Broadcast(1, x, {"x": theirs, "shared/x": theirs + 2})))
    )
    assert torch.equal(back.x, x)
    assert torch.equal(torch.as_tensor(back.shared["x"]), theirs)
    assert torch.equal(torch.as_tensor(back.shared["shared/x"]), theirs + 2)


def test_the_digest_names_the_bytes() -> None:
    """Equal broadcasts have equal digests; one other bit is another digest."""
    x = torch.ones(3)
    first = wire.broadcast_message("run", Broadcast(1, x, {}))[0].digest
    assert wire.broadcast_message("other", Broadcast(2, x.clone(), {}))[0].digest == first
    assert wire.broadcast_message("run", Broadcast(1, -0.0 * x + x * (1 + 2e-7), {}))[0].digest != first


@pytest.mark.parametrize("memory", [{}, stacks()])
@pytest.mark.parametrize("own", [{}, stacks()])
def test_a_task_comes_back(sent: Sent, memory: dict[str, Any], own: dict[str, Any]) -> None:
    """Clients, their memory and their own fields: rows of every type, zero-dimensional ones too."""
    work = CohortWork(5, 2, (4, 7, 9), memory, own)
    message, buffers = wire.task_message("run", work, 6)
    assert (message.run, message.round, message.task, message.attempt) == ("run", 5, 2, 6)
    back = wire.work_of(*sent((message, buffers)))
    assert (back.round, back.index, back.clients) == (5, 2, (4, 7, 9))
    assert same(back.memory, memory)
    assert same(back.own, own)


def test_a_result_comes_back(sent: Sent) -> None:
    """Payloads, dense fields, memories and metrics, all exact."""
    work, r = CohortWork(5, 2, (4, 7, 9), {}, {}), result()
    message, buffers = wire.result_message("run", work, 6, r)
    assert (message.run, message.round, message.task, message.attempt) == ("run", 5, 2, 6)
    back = wire.result_of(*sent((message, buffers)))
    assert (back.clients, back.m, back.metrics) == ((4, 7, 9), (1, 2, 3), r.metrics)
    assert same(back.dense, r.dense)
    assert same(back.memory, r.memory)
    assert back.coded.keys() == r.coded.keys()
    for name, coded in r.coded.items():
        assert (back.coded[name].call, back.coded[name].sizes) == (coded.call, coded.sizes)
        assert np.array_equal(back.coded[name].payload, coded.payload)
    assert back.bits == r.bits


def test_the_bits_of_a_result() -> None:
    """8 times the bytes of the payloads and dense fields; memories and metrics are the simulator's and cost nothing."""
    r = result()
    dense = sum(stack.nbytes for stack in r.dense.values())
    assert r.bits == 8 * (12 + 3 + dense)
    _, buffers = wire.result_message("run", CohortWork(5, 2, (4, 7, 9), {}, {}), 0, r)
    assert sum(b.nbytes for b in buffers) == 12 + 3 + dense + sum(stack.nbytes for stack in r.memory.values())


def test_why_a_thousand_clients_were_skipped_fits_into_a_header(sent: Sent) -> None:
    """All of them are named; their texts are cut, in whatever letters they are written."""
    skipped = [Skipped(i, "Ω" * 1000) for i in range(1000)]
    message, buffers = wire.result_message("run", CohortWork(5, 2, (), {}, {}), 0, CohortResult.of_nobody(skipped))
    assert len(encode_header(message, [])) < 1 << 20
    back = wire.result_of(*sent((message, buffers)))
    assert [each.client for each in back.skipped] == list(range(1000))
    assert all(each.text.startswith("ΩΩΩ") for each in back.skipped)


def test_losses_that_are_no_numbers_come_back(sent: Sent) -> None:
    """A diverging run may have a loss of inf or NaN: that is a fact, no mistake of the message."""
    r = result()
    r.metrics["loss_sum"][:] = [float("inf"), float("nan"), 1.0]
    back = wire.result_of(*sent(wire.result_message("run", CohortWork(5, 2, (4, 7, 9), {}, {}), 0, r)))
    assert np.array_equal(back.metrics["loss_sum"], r.metrics["loss_sum"], equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16])
def test_a_shard_comes_back(sent: Sent, dtype: torch.dtype) -> None:
    """One client's inputs and targets."""
    shard = (torch.arange(24).reshape(3, 2, 4).to(dtype), torch.tensor([2, 0, 1]))
    message, buffers = wire.shard_message("run", 8, shard)
    assert (message.run, message.client) == ("run", 8)
    inputs, targets = wire.shard_of(*sent((message, buffers)))
    assert same({"a": inputs, "b": targets}, {"a": shard[0], "b": shard[1]})


def test_nothing_is_copied_on_the_way_out() -> None:
    """A model's buffer is the model's memory."""
    x = torch.zeros(5)
    _, buffers = wire.broadcast_message("run", Broadcast(1, x, {}))
    x.fill_(1.0)
    assert buffers[0].view(np.float32).tolist() == [1.0] * 5


# --- what is refused -------------------------------------------------------------------------------------------------


def packed_result(**changes: Any) -> tuple[messages.Result, list[np.ndarray]]:
    """A result's message with some fields replaced."""
    message, buffers = wire.result_message("run", CohortWork(5, 2, (4, 7, 9), {}, {}), 0, result())
    return msgspec.structs.replace(message, **changes), buffers


METRICS = result().metrics


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"clients": [4, 7]}, "it needs one row for each of 2 clients"),
        ({"clients": [4, 7, 9, 11]}, "it needs one row for each of 4 clients"),
        ({"metrics": {}}, "needs 3 values of each of"),
        ({"metrics": {k: v for k, v in METRICS.items() if k != "m"}}, "needs 3 values of each of"),
        ({"metrics": {**METRICS, "loss_sum": [1.0]}}, "needs 3 values of each of"),
        ({"metrics": {**METRICS, "m": [1.0, 2.5, 3.0]}}, "a number of samples that is none"),
        ({"metrics": {**METRICS, "m": [1.0, float("nan"), 3.0]}}, "a number of samples that is none"),
        ({"metrics": {**METRICS, "m": [1.0, float("inf"), 3.0]}}, "a number of samples that is none"),
        ({"metrics": {**METRICS, "m": [1.0, -1.0, 3.0]}}, "a number of samples that is none"),
        ({"fields": [Field("delta", True, 0, [5, 7]), Field("change", True, 3, [1, 1, 1])]}, "needs 3 payloads"),
        ({"fields": [Field("delta", True, 0, [5, 6, 0]), Field("change", True, 3, [1, 1, 1])]}, "sizes it names"),
        ({"fields": [Field("delta", True, 0, [5, 7, 0]), Field("delta", True, 3, [1, 1, 1])]}, "each field once"),
    ],
)
def test_a_result_that_does_not_fit_is_refused(changes: dict[str, Any], said: str) -> None:
    """Another number of rows, payloads or metrics, sizes that are not the payload's, a field twice: MessageError."""
    with pytest.raises(MessageError, match=said):
        wire.result_of(*packed_result(**changes))


def test_too_few_buffers_are_refused() -> None:
    """Every field and every tensor needs its bytes."""
    message, buffers = packed_result()
    for count in range(len(buffers)):
        with pytest.raises(MessageError):
            wire.result_of(message, buffers[:count])


@pytest.mark.parametrize(
    ("spec", "nbytes", "said"),
    [
        (TensorSpec("memory/h", "float32", [2, 4]), 32, "it needs one row for each of 3 clients"),
        (TensorSpec("memory/h", "float32", []), 4, "it needs one row for each of 3 clients"),
        (TensorSpec("own/c", "float32", [4, 3]), 48, "it needs one row for each of 3 clients"),
        (TensorSpec("memory/h", "float32", [3, 4]), 44, "44 bytes cannot be a tensor float32"),
    ],
)
def test_a_task_that_does_not_fit_is_refused(spec: TensorSpec, nbytes: int, said: str) -> None:
    """A stack with another number of rows than clients, no rows at all, or too few bytes."""
    task = messages.Task("run", 1, 0, 0, [1, 2, 3], [spec])
    with pytest.raises(MessageError, match=said):
        wire.work_of(task, [np.zeros(nbytes, np.uint8)])


def test_a_tensor_twice_is_refused() -> None:
    """Two tensors of one name: which is meant?"""
    spec = TensorSpec("memory/h", "float32", [1, 1])
    with pytest.raises(MessageError, match="the same name"):
        wire.work_of(messages.Task("run", 1, 0, 0, [1], [spec, spec]), [np.zeros(4, np.uint8)] * 2)


def test_a_broadcast_without_x_is_refused() -> None:
    """There is no round without a model."""
    message = messages.Broadcast("run", 1, "", {}, [TensorSpec("shared/c", "float32", [1])])
    with pytest.raises(MessageError, match="without x"):
        wire.broadcast_of(message, [np.zeros(4, np.uint8)])


@pytest.mark.parametrize(("rows", "labels"), [([2, 1], [3]), ([], [1]), ([1], []), ([0, 2], [0])])
def test_a_shard_of_unequal_lengths_is_refused(rows: list[int], labels: list[int]) -> None:
    """One target an input, and at least one of each."""
    message = messages.Shard("run", 1, [TensorSpec("inputs", "uint8", rows), TensorSpec("targets", "uint8", labels)])
    with pytest.raises(MessageError, match="one each a sample"):
        wire.shard_of(message, [np.zeros(int(np.prod(shape)), np.uint8) for shape in (rows, labels)])


@pytest.mark.parametrize("names", [["inputs"], ["inputs", "targets", "more"], ["inputs", "labels"]])
def test_a_shard_of_another_kind_is_refused(names: list[str]) -> None:
    """It holds inputs and targets, nothing else."""
    message = messages.Shard("run", 1, [TensorSpec(name, "float32", [1]) for name in names])
    with pytest.raises(MessageError, match="inputs and targets"):
        wire.shard_of(message, [np.zeros(4, np.uint8)] * len(names))


def summed(**changed: Any) -> CohortResult:
    """A result of which one field came as sums."""
    kept = {"one": torch.randn(6), "size": torch.randn(6)}
    return replace(result(), sums={"g": FieldSums(torch.float16, kept)} | changed)  # type: ignore[arg-type]  # both kinds


def test_sums_come_back(sent: Sent) -> None:
    """Of every kind, with the type of what was added; they are no rows of the clients'."""
    work = CohortWork(3, 1, (4, 7, 9), {}, {}, {"g": ("one", "size")})
    assert wire.work_of(*sent(wire.task_message("run", work, 1))).asked == work.asked
    back = wire.result_of(*sent(wire.result_message("run", work, 1, summed())))
    assert back.bits == result().bits + 8 * 3 * 6 * 2
    assert "g" not in back.dense
    (name, kept), *others = back.sums.items()
    assert (name, kept.dtype, list(kept.totals), others) == ("g", torch.float16, ["one", "size"], [])


@pytest.mark.parametrize(
    "change",
    [
        lambda m: msgspec.structs.replace(m, sums=[Summed("g", "float64", ["one", "size"])]),
        lambda m: msgspec.structs.replace(m, sums=[Summed("h", "float16", ["one", "size"])]),
        lambda m: msgspec.structs.replace(m, sums=[Summed("g", "float16", ["one", "one"])]),
        lambda m: msgspec.structs.replace(m, sums=m.sums * 2),
        lambda m: msgspec.structs.replace(m, sums=[]),
    ],
    ids=["another type", "another field", "one kind twice", "one field twice", "not announced"],
)
def test_sums_that_do_not_fit_are_refused(sent: Sent, change: Callable[[Any], Any]) -> None:
    """A peer's sums are what it says they are, or the message is refused."""
    work = CohortWork(3, 1, (4, 7, 9), {}, {}, {"g": ("one", "size")})
    message, buffers = sent(wire.result_message("run", work, 1, summed()))
    with pytest.raises(MessageError):
        wire.result_of(change(message), buffers)
