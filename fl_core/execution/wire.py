"""Tasks, broadcasts and results as messages of the protocol, and back. Both daemons speak through these functions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from fl_core.execution.cohort import METRICS, CodedField, CohortResult, CohortWork
from fl_core.server import Broadcast
from fl_core.tensors import NAMES, bytes_of, tensor_of
from protocol import messages
from protocol.errors import MessageError
from protocol.fields import Field, TensorSpec

Buffers = Sequence[np.ndarray]
Packed = tuple[messages.Broadcast, list[np.ndarray]]
_X = "x"
_REPLY, _MEMORY, _OWN, _SHARED = "reply/", "memory/", "own/", "shared/"


def broadcast_message(run: str, broadcast: Broadcast) -> Packed:
    """What a round sends to every worker once: x and the shared fields."""
    tensors = {_X: broadcast.x}
    tensors |= {_SHARED + name: value for name, value in broadcast.shared.items() if isinstance(value, Tensor)}
    numbers = {name: value for name, value in broadcast.shared.items() if not isinstance(value, Tensor)}
    specs, buffers = _pack(tensors)
    digest = hashlib.sha256()
    for buffer in buffers:
        digest.update(buffer.data)
    return messages.Broadcast(run, broadcast.round, digest.hexdigest(), numbers, specs), buffers


def broadcast_of(message: messages.Broadcast, buffers: Buffers) -> Broadcast:
    """The broadcast a worker received."""
    tensors = _unpack(message.tensors, buffers)
    x = tensors.pop(_X, None)
    if x is None:
        raise MessageError("a Broadcast without x")
    return Broadcast(message.round, x, {**message.scalars, **_with_prefix(tensors, _SHARED)})


def task_message(run: str, work: CohortWork, attempt: int) -> tuple[messages.Task, list[np.ndarray]]:
    """A cohort's work, with what belongs to its clients alone."""
    tensors = {_MEMORY + name: stack for name, stack in work.memory.items()}
    tensors |= {_OWN + name: stack for name, stack in work.own.items()}
    specs, buffers = _pack(tensors)
    return messages.Task(run, work.round, work.index, attempt, list(work.clients), specs), buffers


def work_of(message: messages.Task, buffers: Buffers) -> CohortWork:
    """The cohort's work a worker received."""
    tensors = _unpack(message.tensors, buffers)
    _check_rows(tensors, len(message.clients))
    return CohortWork(
        message.round,
        message.task,
        tuple(message.clients),
        _with_prefix(tensors, _MEMORY),
        _with_prefix(tensors, _OWN),
    )


def result_message(
    run: str, work: CohortWork, attempt: int, result: CohortResult
) -> tuple[messages.Result, list[np.ndarray]]:
    """A cohort's result: a buffer of payloads for each compressed field, then the dense fields and the memories."""
    fields = [Field(name, True, f.call, list(f.sizes)) for name, f in result.coded.items()]
    tensors = {_REPLY + name: stack for name, stack in result.dense.items()}
    tensors |= {_MEMORY + name: stack for name, stack in result.memory.items()}
    specs, buffers = _pack(tensors)
    payloads = [field.payload for field in result.coded.values()]
    message = messages.Result(run, work.round, work.index, attempt, list(result.clients), fields, specs, result.metrics)
    return message, [*payloads, *buffers]


def result_of(message: messages.Result, buffers: Buffers) -> CohortResult:
    """The result a master received.

    Raises:
        MessageError: tensors or metrics that are not one row a client.
    """
    if len({field.name for field in message.fields}) != len(message.fields) or len(buffers) < len(message.fields):
        raise MessageError("a Result needs one buffer for each of its fields, and each field once")
    coded = {
        field.name: CodedField(field.call, tuple(field.sizes), buffer)
        for field, buffer in zip(message.fields, buffers, strict=False)
    }
    tensors = _unpack(message.tensors, buffers[len(message.fields) :])
    rows = len(message.clients)
    _check_rows(tensors, rows)
    if any(len(field.sizes) != rows or sum(field.sizes) != field.payload.nbytes for field in coded.values()):
        raise MessageError(f"a Result for {rows} clients needs {rows} payloads in each field, of the sizes it names")
    if any(len(values) != rows for values in message.metrics.values()) or not message.metrics.keys() >= METRICS:
        raise MessageError(f"a Result for {rows} clients needs {rows} values of each of {', '.join(sorted(METRICS))}")
    if not all(m >= 1 and m.is_integer() for m in message.metrics["m"]):
        raise MessageError("a Result with a number of samples that is none")
    return CohortResult(
        tuple(message.clients),
        coded,
        _with_prefix(tensors, _REPLY),
        _with_prefix(tensors, _MEMORY),
        dict(message.metrics),
    )


def shard_message(run: str, client: int, shard: tuple[Tensor, Tensor]) -> tuple[messages.Shard, list[np.ndarray]]:
    """One client's data, for a worker that lacks it."""
    specs, buffers = _pack({"inputs": shard[0], "targets": shard[1]})
    return messages.Shard(run, client, specs), buffers


def shard_of(message: messages.Shard, buffers: Buffers) -> tuple[Tensor, Tensor]:
    """The data a worker received."""
    tensors = _unpack(message.tensors, buffers)
    if set(tensors) != {"inputs", "targets"}:
        raise MessageError("a Shard holds inputs and targets, nothing else")
    inputs, targets = tensors["inputs"], tensors["targets"]
    if inputs.dim() == 0 or targets.dim() == 0 or not 1 <= len(inputs) == len(targets):
        raise MessageError(
            f"a Shard of inputs {list(inputs.shape)} and targets {list(targets.shape)}: one each a sample"
        )
    return inputs, targets


def _pack(tensors: dict[str, Tensor]) -> tuple[list[TensorSpec], list[np.ndarray]]:
    specs = [TensorSpec(name, NAMES[t.dtype], list(t.shape)) for name, t in tensors.items()]  # type: ignore[arg-type]  # the names are the same list
    return specs, [bytes_of(t) for t in tensors.values()]


def _unpack(specs: Sequence[TensorSpec], buffers: Buffers) -> dict[str, Tensor]:
    if len({spec.name for spec in specs}) != len(specs):
        raise MessageError("two tensors of one message have the same name")
    try:
        return {
            spec.name: tensor_of(buffer, spec.dtype, tuple(spec.shape))
            for spec, buffer in zip(specs, buffers, strict=True)
        }
    except ValueError as error:
        raise MessageError(str(error)) from error


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _check_rows(tensors: dict[str, Tensor], rows: int) -> None:
    for name, tensor in tensors.items():
        if tensor.dim() == 0 or tensor.shape[0] != rows:
            raise MessageError(
                f"tensor {name} has shape {list(tensor.shape)}; it needs one row for each of {rows} clients"
            )
