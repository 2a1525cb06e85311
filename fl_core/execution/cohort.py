"""A cohort: a few clients whose local work is one task. Here they run one by one, on one slot's replica."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from compressors.compressor import Layout, NonFiniteError
from fl_core.client import Client, LocalWork, Message
from fl_core.errors import FlspanError, PlugInError
from fl_core.execution.streams import KeyedGenerators
from fl_core.problem import in_user_code
from fl_core.randomness import ClientRandomness, UnkeyedDraws, generator, global_state
from fl_core.replies import CohortReplies
from fl_core.server import Broadcast
from fl_core.state import State, as_dict, as_tensor, fields_of, recalled, settled
from fl_core.tensors import unchanged

if TYPE_CHECKING:
    from fl_core.algorithm import Algorithm
    from fl_core.problem import Problem


@dataclass(frozen=True)
class CohortWork:
    """A task: which clients, and what belongs to each of them alone.

    Attributes:
        index: of the cohort within its round.
        memory: Memory fields, stacked `[G, …]`; without a field for clients that still have its initial value.
        own: Broadcast fields that differ between clients, stacked `[G, …]`.
    """

    round: int
    index: int
    clients: tuple[int, ...]
    memory: dict[str, Tensor]
    own: dict[str, Tensor]


@dataclass(frozen=True)
class CodedField:
    """A Reply field that a compressor has encoded: the clients' payloads back to back, and each one's size in bytes."""

    call: int
    sizes: tuple[int, ...]
    payload: np.ndarray


METRICS = frozenset({"m", "loss_sum", "loss_count", "oracle_calls", "seconds_s"})
"""What is measured of each client of a cohort."""


@dataclass(frozen=True)
class CohortResult:
    """What a cohort sends back.

    Attributes:
        coded, dense: Reply fields by name, as messages or as stacked tensors `[G, …]`.
        memory: the clients' next Memory, stacked.
        metrics: one value a client: m (its samples), loss_sum, loss_count, oracle_calls, seconds_s.
    """

    clients: tuple[int, ...]
    coded: dict[str, CodedField]
    dense: dict[str, Tensor]
    memory: dict[str, Tensor]
    metrics: dict[str, list[float]]

    @property
    def m(self) -> tuple[int, ...]:
        """The clients' numbers of samples."""
        return tuple(int(m) for m in self.metrics["m"])

    @property
    def bits(self) -> int:
        """Of all replies: 8 × the bytes of their encoded payloads."""
        coded = sum(sum(field.sizes) for field in self.coded.values())
        return 8 * (coded + sum(stack.nbytes for stack in self.dense.values()))


class CohortRunner:
    """Runs cohorts of one experiment on one device with one replica of the model; used by one thread at a time.

    Args:
        files: the user's own files, to find her line in a traceback.
    """

    def __init__(
        self,
        problem: Problem,
        algorithm: Algorithm,
        work: LocalWork,
        device: torch.device,
        files: Iterable[str] = (),
    ) -> None:
        self.problem = problem
        self.algorithm = algorithm
        self.work = work
        self.device = device
        self.oracle = problem.oracle(device)
        self._declared = problem.initial_memory(algorithm, device)
        self._files = tuple(files)
        self._keyed: bool | None = None  # whether clients draw from generators of their own; None: not known yet

    def run(self, broadcast: Broadcast, work: CohortWork) -> CohortResult:
        """The local work of every client of the cohort, in order.

        Raises:
            UserCodeError: a client's code raised; it says which client, file and line.
        """
        started = time.perf_counter()
        before = global_state(self.device)
        finished = self._run_clients(broadcast, work)
        if not torch.equal(before, global_state(self.device)):
            # Someone drew from torch's global generator, which threads share: these clients, or another thread.
            if not self._keyed:
                self._keyed = True
                finished = self._run_clients(broadcast, work)
            with UnkeyedDraws(self.device):  # what still draws from it cannot be keyed: it raises where it stands
                self._run_clients(broadcast, work)
        return self._collect(work, finished, started)

    def _run_clients(self, broadcast: Broadcast, work: CohortWork) -> list[_Finished]:
        if self._keyed is False:
            return [self._run_client(broadcast, work, row) for row in range(len(work.clients))]
        finished, drew = [], False
        for row, i in enumerate(work.clients):
            with ClientRandomness(generator(self.work.seed, work.round, i, "torch")) as randomness:
                finished.append(self._run_client(broadcast, work, row))
            drew = drew or randomness.used
        if self._keyed is None and finished:
            self._keyed = drew
        return finished

    def _run_client(self, broadcast: Broadcast, work: CohortWork, row: int) -> _Finished:
        i = work.clients[row]
        with self._blamed_on(i):
            rows = {name: stack[row] for name, stack in work.memory.items()}
            memory = recalled(self.algorithm.Memory, rows, self.problem.initial_memory(self.algorithm, self.device))
            own = {name: stack[row].to(self.device) for name, stack in work.own.items()}
            s = self.algorithm.Broadcast(**broadcast.shared, **own)
            self.oracle.reset_buffers()
            client = Client(i, work.round, self.problem.shard(i, self.device), memory, self.work, self.oracle)
            data = {"inputs": client.inputs, "targets": client.targets}
            with unchanged(x0=broadcast.x, s=vars(s), client=data):
                x = client.run(self.algorithm, broadcast.x, s)
                reply = self.algorithm.local_state(client, broadcast.x, x, s)
            owner = type(self.algorithm).__name__
            if not isinstance(reply, State):
                raise PlugInError(f"{owner}.local_state must return self.Reply(...), not {type(reply).__name__}")
            _check_finite(reply, i, work.round)
            return _Finished(client, reply, settled(client.memory, self._declared, owner))

    @contextmanager
    def _blamed_on(self, client: int) -> Iterator[None]:
        try:
            with in_user_code(client, self._files):
                yield
        except NonFiniteError as error:
            raise NonFiniteReplyError(
                f"client {client}: compress() was given a vector with NaN or inf; {_SMALLER}"
            ) from error

    def _collect(self, work: CohortWork, finished: list[_Finished], started: float) -> CohortResult:
        coded: dict[str, CodedField] = {}
        dense: dict[str, Tensor] = {}
        for name in fields_of(self.algorithm.Reply):
            values = [getattr(each.reply, name) for each in finished]
            if any(isinstance(value, Message) for value in values):
                coded[name] = self._coded(name, values)
            else:
                dense[name] = torch.stack([as_tensor(value) for value in values]).cpu()
        memory = {
            name: torch.stack([each.memory[name] for each in finished]).cpu()
            for name in fields_of(self.algorithm.Memory)
        }
        clients = [each.client for each in finished]
        each_s = (time.perf_counter() - started) / max(1, len(clients))
        metrics = {
            "m": [float(client.m) for client in clients],
            "loss_sum": [float(client.loss_sum) for client in clients],
            "loss_count": [float(client.loss_count) for client in clients],
            "oracle_calls": [float(client.oracle_calls) for client in clients],
            "seconds_s": [each_s] * len(clients),
        }
        return CohortResult(work.clients, coded, dense, memory, metrics)

    def _coded(self, name: str, values: list[Any]) -> CodedField:
        calls = {value.call if isinstance(value, Message) else None for value in values}
        if len(calls) > 1:
            raise PlugInError(
                f"{type(self.algorithm).__name__}.Reply.{name}: all clients of a round must send the same one of "
                "their messages: compress the same vectors in the same order on each, and send tensors from all or none"
            )
        payload = values[0].payload if len(values) == 1 else np.concatenate([v.payload for v in values])
        return CodedField(values[0].call, tuple(v.payload.nbytes for v in values), payload)


@dataclass(frozen=True)
class _Finished:
    """A client after its local work."""

    client: Client
    reply: State
    memory: dict[str, Tensor]


def decode(result: CohortResult, round: int, work: LocalWork, layout: Layout) -> CohortReplies:
    """The values of a cohort's replies, out of its bytes."""
    fields = dict(result.dense)
    for name, field in result.coded.items():
        sources = KeyedGenerators(work.seed, round, result.clients, "compress", field.call)
        fields[name] = work.compressor.decode(field.payload, field.sizes, layout, sources)
    return CohortReplies(result.clients, result.m, fields)


class NonFiniteReplyError(FlspanError):
    """A client's reply holds NaN or inf: the method diverges, or its code is wrong."""


_SMALLER = "try a smaller step size, or look at the client's data"


def _check_finite(reply: Any, client: int, round: int) -> None:
    for name, value in as_dict(reply).items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
            low, high = torch.aminmax(value)
            if not (torch.isfinite(low) and torch.isfinite(high)):
                raise NonFiniteReplyError(f"round {round}, client {client}: Reply.{name} holds NaN or inf; {_SMALLER}")


__all__ = ["METRICS", "CodedField", "CohortResult", "CohortRunner", "CohortWork", "NonFiniteReplyError", "decode"]
