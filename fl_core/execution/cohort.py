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
from fl_core.errors import FlspanError, UserCodeError
from fl_core.randomness import ClientRandomness, generator
from fl_core.replies import CohortReplies
from fl_core.server import Broadcast
from fl_core.state import as_dict, fields_of

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
        self._files = tuple(files)
        self._stochastic = False

    def run(self, broadcast: Broadcast, work: CohortWork) -> CohortResult:
        """The local work of every client of the cohort, in order.

        Raises:
            UserCodeError: a client's code raised; it says which client, file and line.
        """
        started = time.perf_counter()
        before = _global_random_state(self.device)
        finished = [self._run_client(broadcast, work, row) for row in range(len(work.clients))]
        if not self._stochastic and not torch.equal(before, _global_random_state(self.device)):
            # Something drew from torch's global generator, which threads share: from now on it draws from the client's.
            self._stochastic = True
            finished = [self._run_client(broadcast, work, row) for row in range(len(work.clients))]
        return self._collect(work, finished, started)

    def _run_client(self, broadcast: Broadcast, work: CohortWork, row: int) -> tuple[Client, Any]:
        i = work.clients[row]
        with self._blamed_on(i):
            memory = self.problem.initial_memory(self.algorithm, self.device)
            for name, stack in work.memory.items():
                setattr(memory, name, stack[row].to(self.device, copy=True))
            own = {name: stack[row].to(self.device) for name, stack in work.own.items()}
            s = self.algorithm.Broadcast(**broadcast.shared, **own)
            self.oracle.reset_buffers()
            client = Client(i, work.round, self.problem.shard(i, self.device), memory, self.work, self.oracle)
            with ClientRandomness(client.generator("torch")) if self._stochastic else _nothing():
                x = client.run(self.algorithm, broadcast.x, s)
                reply = self.algorithm.local_state(client, broadcast.x, x, s)
            _check_finite(reply, i, work.round)
        return client, reply

    @contextmanager
    def _blamed_on(self, client: int) -> Iterator[None]:
        try:
            yield
        except NonFiniteError as error:
            raise NonFiniteReplyError(
                f"client {client}: compress() was given a vector with NaN or inf; {_SMALLER}"
            ) from error
        except FlspanError:
            raise
        except Exception as error:
            raise UserCodeError.of(error, files=self._files, client=client) from error

    def _collect(self, work: CohortWork, finished: list[tuple[Client, Any]], started: float) -> CohortResult:
        coded: dict[str, CodedField] = {}
        dense: dict[str, Tensor] = {}
        for name in fields_of(self.algorithm.Reply):
            values = [getattr(reply, name) for _, reply in finished]
            if isinstance(values[0], Message):
                payload = values[0].payload if len(values) == 1 else np.concatenate([v.payload for v in values])
                coded[name] = CodedField(values[0].call, tuple(v.payload.nbytes for v in values), payload)
            else:
                dense[name] = torch.stack([torch.as_tensor(v) for v in values]).cpu()
        memory = {
            name: torch.stack([torch.as_tensor(getattr(client.memory, name)) for client, _ in finished]).cpu()
            for name in fields_of(self.algorithm.Memory)
        }
        clients = [client for client, _ in finished]
        each_s = (time.perf_counter() - started) / max(1, len(clients))
        metrics = {
            "m": [float(client.m) for client in clients],
            "loss_sum": [float(client.loss_sum) for client in clients],
            "loss_count": [float(client.loss_count) for client in clients],
            "oracle_calls": [float(client.oracle_calls) for client in clients],
            "seconds_s": [each_s] * len(clients),
        }
        return CohortResult(work.clients, coded, dense, memory, metrics)


def decode(result: CohortResult, round: int, work: LocalWork, layout: Layout) -> CohortReplies:
    """The values of a cohort's replies, out of its bytes."""
    fields = dict(result.dense)
    for name, field in result.coded.items():
        sources = [generator(work.seed, round, i, "compress", field.call) for i in result.clients]
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


def _global_random_state(device: torch.device) -> Tensor:
    if device.type == "cuda":
        return torch.cat([torch.get_rng_state(), torch.cuda.get_rng_state(device)])
    return torch.get_rng_state()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


__all__ = ["CodedField", "CohortResult", "CohortRunner", "CohortWork", "NonFiniteReplyError", "decode"]
