"""Tasks, broadcasts and results as messages of the protocol, and back. Both daemons speak through these functions."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import xxhash
from torch import Tensor

from fl_core.execution.cohort import METRICS, CodedField, CohortResult, CohortWork, Skipped
from fl_core.replies import FieldSums, Weighting
from fl_core.server import Broadcast
from fl_core.tensors import DTYPES, NAMES, bytes_of, tensor_of
from protocol import messages
from protocol.errors import MessageError
from protocol.fields import Field, SkippedClient, Summed, TensorSpec, clipped

Buffers = Sequence[np.ndarray]
Packed = tuple[messages.Broadcast, list[np.ndarray]]
_X = "x"
_REPLY, _MEMORY, _OWN, _SHARED, _SUM = "reply/", "memory/", "own/", "shared/", "sum/"

_SKIPPED_CHARACTERS = 200_000
"""Why clients of one task were skipped, all texts together: they travel in the header, and that is limited to 1 MiB."""


def broadcast_message(run: str, broadcast: Broadcast) -> Packed:
    """What a round sends to every worker once: x and the shared fields, all of it (see `broadcasts` for less)."""
    tensors = {_X: broadcast.x}
    tensors |= {_SHARED + name: value for name, value in broadcast.shared.items() if isinstance(value, Tensor)}
    numbers = {name: value for name, value in broadcast.shared.items() if not isinstance(value, Tensor)}
    specs, buffers = _pack(tensors)
    digests = [_digest(spec, buffer) for spec, buffer in zip(specs, buffers, strict=True)]
    digest = xxhash.xxh3_128_hexdigest("".join(digests).encode())
    return messages.Broadcast(run, broadcast.round, digest, numbers, specs, digests), buffers


def tensor_bytes(broadcast: Broadcast) -> int:
    """Of the broadcast's tensors; what is on a GPU, and must be waited for, counts as endless."""
    tensors = [broadcast.x, *(value for value in broadcast.shared.values() if isinstance(value, Tensor))]
    return sum(t.nbytes if t.device.type == "cpu" else sys.maxsize for t in tensors)


def broadcast_of(message: messages.Broadcast, buffers: Buffers) -> Broadcast:
    """The broadcast a worker received, all of whose tensors came with it."""
    return broadcast_with(message, tensors_of(message, buffers))


def tensors_of(message: messages.Broadcast, buffers: Buffers) -> dict[str, Tensor]:
    """The tensors that came with a Broadcast, by the names they have on the wire."""
    return _unpack(message.tensors, buffers)


def broadcast_with(message: messages.Broadcast, tensors: dict[str, Tensor]) -> Broadcast:
    """The broadcast of a message, whose tensors are all here."""
    tensors = dict(tensors)
    x = tensors.pop(_X, None)
    if x is None:
        raise MessageError("a Broadcast without x")
    return Broadcast(message.round, x, {**message.scalars, **_with_prefix(tensors, _SHARED)})


def task_message(
    run: str, work: CohortWork, attempt: int, held: Sequence[int] = ()
) -> tuple[messages.Task, list[np.ndarray]]:
    """A cohort's work, with what belongs to its clients alone, but for the memories of those in these positions."""
    tensors = {}
    if len(held) < len(work.clients):
        here = set(held)
        sent = [row for row in range(len(work.clients)) if row not in here]
        tensors = {_MEMORY + n: stack[sent] if held else stack for n, stack in work.memory.items()}
    tensors |= {_OWN + name: stack for name, stack in work.own.items()}
    specs, buffers = _pack(tensors)
    sums = {name: list(weightings) for name, weightings in work.asked.items()}
    versions = [(row, work.versions[row]) for row in held]
    return messages.Task(run, work.round, work.index, attempt, list(work.clients), specs, sums, versions), buffers


def work_of(message: messages.Task, buffers: Buffers) -> CohortWork:
    """The cohort's work a worker received; its memory is without the rows that the message says are held."""
    tensors = _unpack(message.tensors, buffers)
    clients = len(message.clients)
    if any(row >= clients for row, _ in message.held) or len({row for row, _ in message.held}) < len(message.held):
        raise MessageError("a Task that counts on the memory of clients that are not in it")
    _check_rows({name: t for name, t in tensors.items() if name.startswith(_MEMORY)}, clients - len(message.held))
    _check_rows({name: t for name, t in tensors.items() if not name.startswith(_MEMORY)}, clients)
    return CohortWork(
        message.round,
        message.task,
        tuple(message.clients),
        _with_prefix(tensors, _MEMORY),
        _with_prefix(tensors, _OWN),
        {name: tuple(weightings) for name, weightings in message.sums.items()},
    )


def result_message(
    run: str, work: CohortWork, attempt: int, result: CohortResult
) -> tuple[messages.Result, list[np.ndarray]]:
    """A cohort's result: a buffer of payloads for each compressed field, then dense fields, memories and sums."""
    fields = [Field(name, True, f.call, list(f.sizes)) for name, f in result.coded.items()]
    tensors = {_REPLY + name: stack for name, stack in result.dense.items()}
    tensors |= {_MEMORY + name: stack for name, stack in result.memory.items()}
    sums = [Summed(name, NAMES[f.dtype], list(f.totals)) for name, f in result.sums.items()]  # type: ignore[arg-type]  # a float type
    for name, kept in result.sums.items():
        tensors |= {f"{_SUM}{kind}/{name}": total for kind, total in kept.totals.items()}
    specs, buffers = _pack(tensors)
    payloads = [field.payload for field in result.coded.values()]
    clients = list(result.clients)
    most = _SKIPPED_CHARACTERS // max(1, len(result.skipped))
    skipped = [SkippedClient(each.client, clipped(each.text, most)) for each in result.skipped]
    message = messages.Result(
        run, work.round, work.index, attempt, clients, fields, specs, result.metrics, sums, skipped
    )
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
    sums = {summed.name: _sums_of(summed, tensors) for summed in message.sums}
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
        sums,
        tuple(Skipped(each.client, each.text) for each in message.skipped),
    )


def _sums_of(summed: Summed, tensors: dict[str, Tensor]) -> FieldSums:
    """The sums of one field, taken out of the tensors. Raises MessageError."""
    try:
        totals: dict[Weighting, Tensor] = {
            kind: tensors.pop(f"{_SUM}{kind}/{summed.name}") for kind in summed.weightings
        }
        return FieldSums.checked(DTYPES[summed.dtype], totals)
    except (KeyError, ValueError) as error:
        raise MessageError(f"the sums of field {summed.name} do not fit: {error}") from error


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


def _digest(spec: TensorSpec, buffer: np.ndarray) -> str:
    """A name for what the tensor holds: XXH3 (Y. Collet), 128 bits, at memory's speed (45 MB: 1 ms, SHA-256 49).

    It guards against chance alone: both ends of a link trust each other.
    """
    digest = xxhash.xxh3_128(f"{spec.dtype}{spec.shape}".encode())
    digest.update(buffer.data)
    return digest.hexdigest()


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
