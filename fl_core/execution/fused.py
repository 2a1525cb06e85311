"""A cohort as one computation: its clients' local work, stacked `[G, …]`, by the algorithm's own methods.

Clients are sorted by their number of local steps. At step k those that have more than k are a prefix of the rows, and
one call of LocalGradient and ClientOpt serves them all; those that have finished run LocalState together. Results are
put back in the cohort's order. `CohortRunner` is the specification: on the CPU both give the same bytes.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fl_core.algorithm import Algorithm
from fl_core.client import Message, omega_of
from fl_core.execution.cohort import CodedField, CohortResult, CohortRunner, CohortWork
from fl_core.execution.fused_batches import Batches
from fl_core.execution.fused_client import StackedClient
from fl_core.execution.fused_functions import CannotFuseError, ClientFunctions
from fl_core.execution.fused_level import AVAILABLE, Level
from fl_core.execution.fused_oracle import StackedOracle
from fl_core.execution.fused_steps import local_steps
from fl_core.execution.fused_work import Piece, StackedWork
from fl_core.server import Broadcast
from fl_core.shards import Ints
from fl_core.state import Number, State, as_dict, as_tensor, fields_of


@dataclass
class _Group:
    """Rows first … last-1, which have the same number of local steps; what they send and remember in the end."""

    first: int
    last: int
    steps: int
    dense: dict[str, Tensor] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    memory: dict[str, Tensor] = field(default_factory=dict)


class FusedRunner:
    """Runs cohorts of one experiment on one device as one computation each; used by one thread at a time.

    Args:
        sequential: the runner of the same experiment and device whose results these are.

    Attributes:
        declared: the initial Memory, by field. replies: the fields of Reply.
    """

    def __init__(self, sequential: CohortRunner) -> None:
        if not AVAILABLE:
            raise CannotFuseError("this torch lacks what fusing needs of it")
        if sequential.oracle.autocast is not None:
            raise CannotFuseError('[execution] precision = "bfloat16": autocast rounds many clients at once otherwise')
        self.problem, self.algorithm = sequential.problem, sequential.algorithm
        self.work, self.device = sequential.work, sequential.device
        self.oracle = StackedOracle(sequential.oracle)
        self.declared = as_dict(self.problem.initial_memory(self.algorithm, self.device))
        self.replies = fields_of(self.algorithm.Reply)
        self._omega: float | None = None

    def run(self, broadcast: Broadcast, work: CohortWork) -> CohortResult:
        """The local work of every client of the cohort.

        Raises:
            CannotFuseError, or whatever a method raises that does not work for many clients at once: the cohort must
            then run client by client, which also says for which client it fails.
        """
        return _FusedCohort(self, broadcast, work).run()

    def omega(self) -> float:
        """ω of the uplink operator."""
        if self._omega is None:
            self._omega = omega_of(self.work.compressor, self.problem.d)
        return self._omega


class _FusedCohort:
    """One cohort under way."""

    def __init__(self, runner: FusedRunner, broadcast: Broadcast, work: CohortWork) -> None:
        self._started = time.perf_counter()
        self._runner, self._task = runner, work
        self._x0, self._shared = broadcast.x, broadcast.shared
        self._algorithm, self._device = runner.algorithm, runner.device
        clients = np.fromiter(work.clients, np.int64, len(work.clients))
        m = runner.problem.shards.sizes(clients)
        steps = local_steps(runner, broadcast, work, m)
        # Descending, clients with as many steps in the cohort's order; None: they already are.
        self._order: Ints | None = None
        if isinstance(steps, int):
            self._groups = [_Group(0, len(m), steps)]
        else:
            self._order = np.argsort(-steps, kind="stable")
            clients, m, self._groups = clients[self._order], m[self._order], _groups(steps[self._order])
        key = (runner.work.seed, work.round)
        self._batches = Batches(clients, m, runner.problem.shards, runner.work.estimator, key, self._device)
        self._stacked = StackedWork(runner.oracle, runner.work, self._batches, work.round)
        self._own = {name: self._in_order(stack.to(self._device)) for name, stack in work.own.items()}
        self._memory = self._starting_memory()
        self._client = StackedClient(self._stacked, runner.work, work.round, None, runner.omega)
        self._plain = runner.work.plain_sgd and type(runner.algorithm).client_opt is Algorithm.client_opt

    def run(self) -> CohortResult:
        """All of it."""
        if len(self._groups) == 1:
            self._run_alike(self._groups[0])
        else:
            self._run_ragged()
        return self._collect()

    # --- before ----------------------------------------------------------------------------------------------------

    def _in_order(self, stack: Tensor) -> Tensor:
        return stack if self._order is None else stack[torch.from_numpy(self._order).to(stack.device)]

    def _starting_memory(self) -> dict[str, Tensor | Number]:
        """Field -> rows `[G, …]` of their own (methods may write in place), or the number all clients have."""
        count = len(self._task.clients)
        memory: dict[str, Tensor | Number] = {}
        for name, start in self._runner.declared.items():
            rows = self._task.memory.get(name)
            if isinstance(start, Tensor):
                fresh = torch.zeros((count, *start.shape), dtype=start.dtype, device=self._device)
                memory[name] = fresh if rows is None else fresh.copy_(self._in_order(rows))
            elif rows is None:
                memory[name] = start
            elif bool((rows == rows[0]).all()):
                memory[name] = rows[0].item()
            else:
                raise CannotFuseError(f"the number Memory.{name} differs within the cohort")
        return memory

    # --- the local work --------------------------------------------------------------------------------------------

    def _run_alike(self, group: _Group) -> None:
        """Everyone has the same number of steps: one level from x0 to the reply."""
        client = self._client
        with Level(group.last) as level, self._functions(level, 0) as functions:
            client.enter(level, functions, 0, group.last)
            client.memory, s = self._record(level, 0, group.last), self._broadcast(level, 0, group.last)
            client.steps, client._method = group.steps, (self._algorithm, s)
            x, client._single_gradient = client._walk(self._x0)
            reply = self._algorithm.local_state(client, self._x0, x, s)
            self._finish(group, reply, level)

    def _run_ragged(self) -> None:
        client, algorithm = self._client, self._algorithm
        x: Tensor | None = None  # [r, d], the points of those under way; None: all at x0
        done = 0
        for group in reversed(self._groups):  # those with the fewest steps, at the end of the rows, are done first
            if group.steps > done:
                with Level(group.last) as level, self._functions(level, 0) as functions:
                    client.enter(level, functions, 0, group.last)
                    client.memory, s = self._record(level, 0, group.last), self._broadcast(level, 0, group.last)
                    client.steps, client.x0 = group.steps, self._x0
                    at = client.optimizer.start(self._x0) if x is None else level.of(x)
                    for k in range(done, group.steps):
                        client._step = k
                        g = algorithm.local_gradient(client, at, s)
                        at = algorithm.client_opt(client, at, g)
                    single = level.stack(g) if group.steps == 1 and self._plain else None
                    x = level.stack(at)
                    self._keep_memory(level, group.last)
                done = group.steps
            else:
                single = None
            self._finish_group(group, x, single)
            x = None if x is None else x[: group.first]

    def _finish_group(self, group: _Group, x: Tensor | None, single: Tensor | None) -> None:
        client = self._client
        compressions = client._compressions
        rows = slice(group.first, group.last)
        with Level(group.last - group.first) as level, self._functions(level, group.first) as functions:
            client.enter(level, functions, group.first, group.last)
            client.memory = self._record(level, group.first, group.last)
            s = self._broadcast(level, group.first, group.last)
            client.steps = client._step = group.steps
            client._method, client.x0 = (self._algorithm, s), self._x0
            client._single_gradient = None if single is None else level.of(single[rows])
            at = self._x0 if x is None else level.of(x[rows])
            reply = self._algorithm.local_state(client, self._x0, at, s)
            self._finish(group, reply, level)
        client._compressions, client._single_gradient = compressions, None

    def _functions(self, level: Level, first: int) -> ClientFunctions:
        stacked = self._stacked  # not self, whose client holds what is made here: a circle keeps a cohort's stacks
        return ClientFunctions(level, lambda row: stacked.stream(first + row))

    def _record(self, level: Level, first: int, last: int) -> State:
        values = {
            name: level.of(value[first:last]) if isinstance(value, Tensor) else value
            for name, value in self._memory.items()
        }
        record: State = self._algorithm.Memory(**values)
        return record

    def _broadcast(self, level: Level, first: int, last: int) -> State:
        own = {name: level.of(stack[first:last]) for name, stack in self._own.items()}
        record: State = self._algorithm.Broadcast(**self._shared, **own)
        return record

    def _keep_memory(self, level: Level, last: int) -> None:
        """What the local steps of rows 0 … last-1 have assigned."""
        for name, value in as_dict(self._client.memory).items():
            kept = self._memory[name]
            if not isinstance(kept, Tensor):
                if isinstance(value, Tensor) or value != kept:
                    raise CannotFuseError(f"a local step changes the number Memory.{name}, and clients differ in steps")
                continue
            rows = level.stack(as_tensor(value))
            if rows.data_ptr() != kept.data_ptr():
                kept[:last] = rows

    def _finish(self, group: _Group, reply: Any, level: Level) -> None:
        """Take in what LocalState returned and left in the memory."""
        if not isinstance(reply, State):
            raise CannotFuseError("local_state returns no Reply")
        for name in self._runner.replies:
            value = getattr(reply, name)
            if isinstance(value, Message):
                group.calls[name] = value.call
            else:
                group.dense[name] = level.stack(as_tensor(value))
        for name, start in self._runner.declared.items():
            value, like = as_tensor(getattr(self._client.memory, name)), as_tensor(start)
            if value.shape != like.shape or not torch.can_cast(value.dtype, like.dtype):
                raise CannotFuseError(f"Memory.{name} is given something else than it starts as")
            group.memory[name] = level.stack(value.detach()).to(like.device, like.dtype)

    # --- after -----------------------------------------------------------------------------------------------------

    def _collect(self) -> CohortResult:
        first = self._groups[0]
        if any((g.calls, list(g.dense)) != (first.calls, list(first.dense)) for g in self._groups[1:]):
            raise CannotFuseError("clients with different numbers of steps send different kinds of replies")
        dense = {name: self._joined([g.dense[name] for g in self._groups]) for name in first.dense}
        if not all(map(_finite, dense.values())):
            raise CannotFuseError("a reply holds NaN or inf")  # the sequential run says whose
        memory = {name: self._joined([g.memory[name] for g in self._groups]) for name in first.memory}
        coded = {name: self._coded(call) for name, call in first.calls.items()}
        losses, samples = map(self._listed, self._stacked.books())
        count = len(self._task.clients)
        metrics = {
            "m": self._listed(self._batches.m),
            "loss_sum": losses,
            "loss_count": samples,
            "oracle_calls": list(samples),
            "seconds_s": [(time.perf_counter() - self._started) / max(1, count)] * count,
        }
        return CohortResult(self._task.clients, coded, dense, memory, metrics)

    def _listed(self, values: np.ndarray) -> list[float]:
        """One number a row, as floats in the cohort's order."""
        found: list[float] = (values if self._order is None else values[self._back]).astype(np.float64).tolist()
        return found

    @cached_property
    def _back(self) -> Ints:
        """Position in the cohort -> row."""
        assert self._order is not None
        return np.argsort(self._order)

    def _joined(self, parts: list[Tensor]) -> Tensor:
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self._order is not None:
            whole = whole[torch.from_numpy(self._back).to(whole.device)]
        return whole.detach().contiguous().cpu()

    def _coded(self, call: int) -> CodedField:
        pieces = [piece for piece in self._stacked.pieces if piece.call == call]
        if len(pieces) == 1 and self._order is None:
            encoded = pieces[0].encoded
            return CodedField(call, encoded.sizes, encoded.payload)
        payloads = _payloads(pieces)
        rows = range(len(payloads)) if self._order is None else self._back.tolist()
        ordered = [payloads[row] for row in rows]
        return CodedField(call, tuple(p.nbytes for p in ordered), np.concatenate(ordered))


def _groups(steps: Ints) -> list[_Group]:
    """Of rows in descending order of their steps."""
    ends = [*(1 + np.flatnonzero(np.diff(steps))).tolist(), len(steps)]
    return [_Group(first, last, int(steps[first])) for first, last in zip([0, *ends[:-1]], ends, strict=True)]


def _finite(stack: Tensor) -> bool:
    if not stack.is_floating_point() or math.isfinite(float(stack.sum())):
        return True  # NaN and inf survive every sum; a finite stack may overflow in it
    return bool(torch.isfinite(stack).all())


def _payloads(pieces: list[Piece]) -> dict[int, np.ndarray]:
    return {
        row: payload
        for piece in pieces
        for row, payload in zip(range(piece.first, piece.last), piece.encoded.split(), strict=True)
    }


__all__ = ["CannotFuseError", "FusedRunner"]
