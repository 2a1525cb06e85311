"""What a worker keeps of the clients it has run, so that their memory need not come back to it with their next task.

The master has every memory too: it is what checkpoints hold, and what the next worker gets when this one is lost. So
memories travel up with each result, and down only to a worker that has not made them itself.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fl_core.execution.cohort import CohortResult, CohortWork

BUDGET_BYTES = 1 << 30
"""Of a run's memories on a worker; those not used for longest are let go."""


@dataclass
class _Made:
    """What a cohort has made: it is in memory, all of it, as long as one of its rows is kept."""

    stacks: dict[str, Tensor]
    rows: int

    @property
    def nbytes(self) -> int:
        return sum(stack.nbytes for stack in self.stacks.values())


@dataclass(frozen=True)
class Kept:
    """One client's row of what a cohort has made, in a round."""

    round: int
    made: _Made
    row: int

    @property
    def stacks(self) -> dict[str, Tensor]:
        """Memory fields `[G, …]`, of which `row` is the client's."""
        return self.made.stacks


class HeldMemories:
    """client -> its memory after the last round in which it ran here. For one thread; it computes nothing."""

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        self._budget_bytes = budget_bytes
        self._held: OrderedDict[int, Kept] = OrderedDict()
        self._bytes = 0

    def keep(self, result: CohortResult, round: int) -> None:
        """The memories that a cohort has made."""
        if not result.memory:
            return
        made = _Made(result.memory, len(result.clients))
        self._bytes += made.nbytes
        for row, i in enumerate(result.clients):
            self._forget(i)
            self._held[i] = Kept(round, made, row)
        while self._bytes > self._budget_bytes:
            self._forget(next(iter(self._held)))

    def find(self, clients: Sequence[int], held: Sequence[tuple[int, int]]) -> dict[int, Kept] | None:
        """Position in the clients -> its memory, for the (position, round) pairs. None: one is not here any more."""
        found: dict[int, Kept] = {}
        for row, round in held:
            kept = self._held.get(clients[row])
            if kept is None or kept.round != round:
                return None
            self._held.move_to_end(clients[row])
            found[row] = kept
        return found

    def _forget(self, client: int) -> None:
        kept = self._held.pop(client, None)
        if kept is not None:
            kept.made.rows -= 1
            if not kept.made.rows:
                self._bytes -= kept.made.nbytes


def completed(work: CohortWork, found: Mapping[int, Kept]) -> CohortWork:
    """The work with the memories that did not come with it."""
    if not found:
        return work
    came = iter(range(len(work.clients)))
    places = [None if row in found else next(came) for row in range(len(work.clients))]
    memory = {}
    for name in next(iter(found.values())).stacks:
        rows = [
            found[row].stacks[name][found[row].row] if at is None else work.memory[name][at]
            for row, at in enumerate(places)
        ]
        memory[name] = torch.stack(rows)
    return replace(work, memory=memory)


__all__ = ["BUDGET_BYTES", "HeldMemories", "Kept", "completed"]
