"""A cohort: a few clients whose local work is one task. Here they run one by one, on one slot's replica."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from compressors.compressor import Layout, NonFiniteError, joined
from fl_core.client import Client, LocalWork, Message, total_losses
from fl_core.errors import BREAKS, FlspanError, PlugInError, UserCodeError
from fl_core.estimators import Orders
from fl_core.execution.pooling import hasten_pooling
from fl_core.execution.reply_checks import SMALLER, Alike, NonFiniteReplyError, check_finite, check_reply
from fl_core.execution.running_sums import RunningSums
from fl_core.execution.streams import KeyedGenerators
from fl_core.randomness import ClientRandomness, UnkeyedDraws, foreign_state, generator, global_state
from fl_core.replies import Asked, CohortReplies, FieldSums
from fl_core.server import Broadcast
from fl_core.state import State, as_tensor, fields_of, recalled, settled
from fl_core.tensors import Unchanged

if TYPE_CHECKING:
    from fl_core.algorithm import Algorithm
    from fl_core.problem import Problem

FOREIGN_DRAWS = threading.Event()
"""Set when NumPy's or Python's global generator was drawn from while clients ran in this process."""
FOREIGN_DRAWS_TEXT = (
    "NumPy's or Python's global generator was drawn from while clients ran. If it is the method that draws, its "
    "numbers depend on which thread runs whom: draw with client.generator(...), or with torch's own functions"
)


@dataclass(frozen=True)
class CohortWork:
    """A task: which clients, and what belongs to each of them alone.

    Attributes:
        index: of the cohort within its round.
        memory: Memory fields, stacked `[G, …]`; without a field for clients that still have its initial value.
        own: Broadcast fields that differ between clients, stacked `[G, …]`.
        asked: the Reply fields of which sums are enough, and which sums.
        versions: the rounds in which each client's memory became what it is; 0 where that is not known.
    """

    round: int
    index: int
    clients: tuple[int, ...]
    memory: dict[str, Tensor]
    own: dict[str, Tensor]
    asked: Asked = field(default_factory=dict)
    versions: tuple[int, ...] = ()


@dataclass(frozen=True)
class CodedField:
    """A Reply field that a compressor has encoded: the clients' payloads back to back, and each one's size in bytes."""

    call: int
    sizes: tuple[int, ...]
    payload: np.ndarray


@dataclass(frozen=True)
class Skipped:
    """A client whose local work failed, and why: `on_error = "skip"` leaves it out of its round."""

    client: int
    text: str


METRICS = frozenset({"m", "loss_sum", "loss_count", "oracle_calls", "seconds_s"})
"""What is measured of each client of a cohort."""


@dataclass(frozen=True)
class CohortResult:
    """What a cohort sends back.

    Attributes:
        coded, dense: Reply fields by name, as messages or as stacked tensors `[G, …]`.
        memory: the clients' next Memory, stacked.
        metrics: one value a client: m (its samples), loss_sum, loss_count, oracle_calls, seconds_s.
        sums: Reply fields of which nobody needs the clients' own values.
        skipped: clients of the cohort that are not among `clients`.
    """

    clients: tuple[int, ...]
    coded: dict[str, CodedField]
    dense: dict[str, Tensor]
    memory: dict[str, Tensor]
    metrics: dict[str, list[float]]
    sums: dict[str, FieldSums] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()

    @classmethod
    def of_nobody(cls, skipped: Iterable[Skipped]) -> CohortResult:
        """All of the cohort's clients were skipped."""
        return cls((), {}, {}, {}, {name: [] for name in METRICS}, skipped=tuple(skipped))

    @cached_property
    def m(self) -> tuple[int, ...]:
        """The clients' numbers of samples."""
        return tuple(map(int, self.metrics["m"]))

    @property
    def bits(self) -> int:
        """Of all replies: 8 × the bytes of their encoded payloads, also where only sums of these are here."""
        coded = sum(sum(field.sizes) for field in self.coded.values())
        summed = len(self.clients) * sum(field.row_bytes for field in self.sums.values())
        return 8 * (coded + summed + sum(stack.nbytes for stack in self.dense.values()))


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
        hasten_pooling(self.oracle.model)
        self._declared = problem.initial_memory(algorithm, device)
        self._memory_fields = fields_of(algorithm.Memory)
        self._files = tuple(files)
        self._on_error = problem.experiment.on_error
        self._keyed: bool | None = None  # whether clients draw from generators of their own; None: not known yet

    def run(self, broadcast: Broadcast, work: CohortWork) -> CohortResult:
        """The local work of every client of the cohort, in order.

        Raises:
            UserCodeError, NonFiniteReplyError: a client's code raised, or its reply is not finite; it says which
                client, file and line. With `on_error = "skip"` that client is left out instead.
        """
        started = time.perf_counter()
        foreign = foreign_state() if self._keyed is None else None  # in the first cohort: who draws, draws there
        before = global_state(self.device)
        ran = self._run_clients(broadcast, work)
        if foreign is not None and foreign != foreign_state():
            FOREIGN_DRAWS.set()  # perhaps by another thread, so it is no error
        if not torch.equal(before, global_state(self.device)):
            # Someone drew from torch's global generator, which threads share: these clients, or another thread.
            if not self._keyed:
                self._keyed = True
                ran = self._run_clients(broadcast, work)
            with UnkeyedDraws(self.device):  # what still draws from it cannot be keyed: it raises where it stands
                self._run_clients(broadcast, work)
        return self._collect(ran, started)

    def _run_clients(self, broadcast: Broadcast, work: CohortWork) -> _Ran:
        clients, finished, skipped, drew = [], [], [], False
        running = RunningSums(work.asked, self.work.compressor, len(work.clients))
        alike = Alike(self.algorithm)
        key = (self.work.seed, work.round)
        orders = Orders(self.work.estimator, key, work.clients, self.problem.shards.sizes)
        for row, i in enumerate(work.clients):
            try:
                if self._keyed is False:
                    finished.append(self._run_client(broadcast, work, row, orders))
                else:
                    with ClientRandomness(generator(self.work.seed, work.round, i, "torch")) as randomness:
                        finished.append(self._run_client(broadcast, work, row, orders))
                    drew = drew or randomness.used
            except (UserCodeError, NonFiniteReplyError) as error:
                if self._on_error == "stop":
                    raise
                skipped.append(Skipped(i, str(error)))
                continue
            clients.append(i)
            alike.check(finished[-1].reply, i)
            running.take(finished[-1].reply, finished[-1].m)
        if self._keyed is None and finished:
            self._keyed = drew
        return _Ran(tuple(clients), finished, running.on_cpu(), tuple(skipped))

    def _run_client(self, broadcast: Broadcast, work: CohortWork, row: int, orders: Orders) -> _Finished:
        i = work.clients[row]
        try:
            return self._local_work(broadcast, work, row, orders)
        except NonFiniteError as error:
            raise NonFiniteReplyError(
                f"client {i}: compress() was given a vector with NaN or inf; {SMALLER}"
            ) from error
        except (FlspanError, torch.OutOfMemoryError, *BREAKS):  # a GPU without memory: no fault of the client's code
            raise
        except BaseException as error:  # a user's code may even leave the interpreter
            raise UserCodeError.of(error, files=self._files, client=i) from error

    def _local_work(self, broadcast: Broadcast, work: CohortWork, row: int, orders: Orders) -> _Finished:
        algorithm, i = self.algorithm, work.clients[row]
        own = {name: stack[row].to(self.device) for name, stack in work.own.items()}
        s = algorithm.Broadcast(**broadcast.shared, **own)
        self.oracle.reset_buffers()
        memory = self._memory_of(work, row)
        client = Client(i, work.round, self.problem.shard(i, self.device), memory, self.work, self.oracle)
        client.orders = partial(orders.of, row)
        shared = {"x0": broadcast.x, "client.inputs": client.inputs, "client.targets": client.targets}
        with Unchanged(shared, s=vars(s)):
            x = client.run(algorithm, broadcast.x, s)
            reply = algorithm.local_state(client, broadcast.x, x, s)
        check_reply(reply, algorithm, i)
        check_finite(reply, i, work.round)
        kept = settled(client.memory, self._declared, type(algorithm).__name__) if self._memory_fields else {}
        return _Finished(reply, kept, client.m, client.losses, client.loss_count, client.oracle_calls)

    def _memory_of(self, work: CohortWork, row: int) -> State:
        """The client's Memory, in tensors of its own."""
        if not self._memory_fields:
            record: State = self.algorithm.Memory()
            return record
        rows = {name: stack[row] for name, stack in work.memory.items()}
        # Where every field has a row, nothing of the start is kept: no need to make one of d zeros.
        start = self._declared
        if len(rows) < len(self._memory_fields):
            start = self.problem.initial_memory(self.algorithm, self.device)
        memory: State = recalled(self.algorithm.Memory, rows, start)
        return memory

    def _collect(self, ran: _Ran, started: float) -> CohortResult:
        finished, sums = ran.finished, ran.sums
        if not finished:
            return CohortResult.of_nobody(ran.skipped)
        coded: dict[str, CodedField] = {}
        dense: dict[str, Tensor] = {}
        for name in fields_of(self.algorithm.Reply):
            if name in sums:
                continue
            values = [getattr(each.reply, name) for each in finished]
            for each in finished:
                setattr(each.reply, name, None)  # the list alone holds them now: each can go as it is joined
            if any(isinstance(value, Message) for value in values):
                coded[name] = self._coded(name, values)
            else:
                dense[name] = torch.stack([as_tensor(value) for value in values]).cpu()
        memory = {name: torch.stack([each.memory[name] for each in finished]).cpu() for name in self._memory_fields}
        each_s = (time.perf_counter() - started) / len(finished)
        metrics = {
            "m": [float(each.m) for each in finished],
            "loss_sum": total_losses([each.losses for each in finished]),
            "loss_count": [float(each.loss_count) for each in finished],
            "oracle_calls": [float(each.oracle_calls) for each in finished],
            "seconds_s": [each_s] * len(finished),
        }
        return CohortResult(ran.clients, coded, dense, memory, metrics, sums, ran.skipped)

    def _coded(self, name: str, values: list[Any]) -> CodedField:
        calls = {value.call if isinstance(value, Message) else None for value in values}
        if len(calls) > 1:
            raise PlugInError(
                f"{type(self.algorithm).__name__}.Reply.{name}: all clients of a round must send the same one of "
                "their messages: compress the same vectors in the same order on each, and send tensors from all or none"
            )
        call, payloads = values[0].call, [value.payload for value in values]
        values.clear()
        return CodedField(call, tuple(payload.nbytes for payload in payloads), joined(payloads))


@dataclass(frozen=True)
class _Finished:
    """What is left of a client after its local work."""

    reply: State
    memory: dict[str, Tensor]
    m: int
    losses: list[tuple[Tensor, int]]
    loss_count: int
    oracle_calls: int


@dataclass(frozen=True)
class _Ran:
    """A cohort after its clients' turns.

    Attributes:
        clients: those that have finished, and `finished` what is left of each.
    """

    clients: tuple[int, ...]
    finished: list[_Finished]
    sums: dict[str, FieldSums]
    skipped: tuple[Skipped, ...]


def decode(result: CohortResult, round: int, work: LocalWork, layout: Layout) -> CohortReplies:
    """The values of a cohort's replies, out of its bytes."""
    fields = dict(result.dense)
    for name, coded in result.coded.items():
        sources = KeyedGenerators(work.seed, round, result.clients, "compress", coded.call)
        fields[name] = work.compressor.decode(coded.payload, coded.sizes, layout, sources)
    return CohortReplies(result.clients, result.m, fields)


__all__ = [
    "FOREIGN_DRAWS",
    "FOREIGN_DRAWS_TEXT",
    "METRICS",
    "CodedField",
    "CohortResult",
    "CohortRunner",
    "CohortWork",
    "NonFiniteReplyError",
    "Skipped",
    "check_finite",
    "decode",
]
