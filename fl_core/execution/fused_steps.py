"""How many local steps each client of a cohort takes, asked once for all clients that have as many samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fl_core.algorithm import Algorithm
from fl_core.client import Client
from fl_core.execution.fused_functions import CannotFuseError
from fl_core.shards import Ints
from fl_core.state import recalled

if TYPE_CHECKING:
    from fl_core.execution.cohort import CohortWork
    from fl_core.execution.fused import FusedRunner
    from fl_core.server import Broadcast


def local_steps(runner: FusedRunner, broadcast: Broadcast, work: CohortWork, m: Ints) -> Ints | int:
    """Of each client, in the cohort's order; one number where it is the same for all.

    Args:
        m: how many samples each has.
    """
    alike, declared = bool((m == m[0]).all()), runner.work.estimator.local_steps
    asks = type(runner.algorithm).local_steps is not Algorithm.local_steps
    if alike and not asks:
        return declared(int(m[0]))
    kinds, which = (m[:1], None) if alike else np.unique(m, return_inverse=True)
    found = {size: declared(size) for size in kinds.tolist()}
    if asks:
        asked = None if work.own else _asked_once(runner, broadcast, work, found)
        if asked is None:
            each = [_steps_of_one(runner, broadcast, work, row) for row in range(len(m))]
            return each[0] if len(set(each)) == 1 else np.array(each)
        found = asked
    kinds_of_steps = set(found.values())
    return kinds_of_steps.pop() if len(kinds_of_steps) == 1 else np.array(list(found.values()))[which]


def _asked_once(
    runner: FusedRunner, broadcast: Broadcast, work: CohortWork, declared: dict[int, int]
) -> dict[int, int] | None:
    """By the number of samples; None where the method asks for more than that."""
    s = runner.algorithm.Broadcast(**broadcast.shared)
    try:
        return {
            m: int(runner.algorithm.local_steps(_AnyClient(steps, m, work.round, runner), s))
            for m, steps in declared.items()
        }
    except CannotFuseError:  # it asks who the client is
        return None


def _steps_of_one(runner: FusedRunner, broadcast: Broadcast, work: CohortWork, row: int) -> int:
    start = runner.problem.initial_memory(runner.algorithm, runner.device)
    memory = recalled(runner.algorithm.Memory, {name: stack[row] for name, stack in work.memory.items()}, start)
    own = {name: stack[row] for name, stack in work.own.items()}
    shard = runner.problem.shard(work.clients[row], runner.device)
    client = Client(work.clients[row], work.round, shard, memory, runner.work, runner.oracle.oracle)
    return int(runner.algorithm.local_steps(client, runner.algorithm.Broadcast(**broadcast.shared, **own)))


class _AnyClient(Client):
    """A client of which only what all clients with m samples share may be asked."""

    def __init__(self, steps: int, m: int, round: int, runner: FusedRunner) -> None:
        self.steps, self.m, self.round, self.lr = steps, m, round, runner.work.lr
        self._runner = runner

    @property
    def omega(self) -> float:
        """ω of the uplink operator."""
        return self._runner.omega()

    def __getattr__(self, name: str) -> Any:
        raise CannotFuseError(f"it asks for client.{name}")

    def generator(self, *purpose: int | str) -> torch.Generator:
        """Raises CannotFuseError."""
        raise CannotFuseError("it asks for client.generator")
