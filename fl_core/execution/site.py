"""A site: everything one process needs to do a run's local work. The master has one for its own pools, a worker too."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from compressors.compressor import Layout
from fl_core.client import LocalWork
from fl_core.errors import RunError
from fl_core.execution.allocator import give_back_memory
from fl_core.execution.choice import ChosenRunner, Decision, Fusing
from fl_core.execution.cohort import CohortResult, CohortRunner, CohortWork
from fl_core.execution.pool import Slot
from fl_core.execution.reduction import reduced
from fl_core.server import Broadcast

if TYPE_CHECKING:
    from fl_core.algorithm import Algorithm
    from fl_core.problem import Problem


class _Replica(NamedTuple):
    """What a slot keeps for a run."""

    site: Site
    runner: ChosenRunner


class Site:
    """One run in one process.

    Args:
        run: the run's name; slots keep their replicas by it.
        files: the user's own files, to find her line in a traceback.
        decided: what an earlier process has decided on fusing (`Fusing.decision`), for a rerun to do the same.
    """

    def __init__(
        self,
        run: str,
        problem: Problem,
        algorithm: Algorithm,
        work: LocalWork,
        files: Iterable[str] = (),
        decided: Decision | None = None,
    ) -> None:
        self.run = run
        self.problem = problem
        self.algorithm = algorithm
        self.work = work
        self.files = tuple(files)
        self.fusing = Fusing(problem.experiment.execution.fuse, decided)
        self._layout = Layout(problem.d, problem.dtype)
        give_back_memory()  # what loading the data has used
        self._lock = threading.Lock()
        self._broadcasts: dict[int, Broadcast | None] = {}  # None: that round is over
        self._on_device: dict[tuple[int, torch.device], Broadcast] = {}

    def receive(self, broadcast: Broadcast) -> None:
        """Take in what the round sends to all clients, and let go of older rounds (a task that runs holds its own)."""
        with self._lock:
            before = broadcast.round - 1
            self._broadcasts = {r: None for r in self._broadcasts if r == before} | {broadcast.round: broadcast}
            stale = {broadcast.round, *(r for r, _ in self._on_device if r not in self._broadcasts)}
            for key in [key for key in self._on_device if key[0] in stale]:
                del self._on_device[key]

    def has_round(self, round: int) -> bool:
        """Whether the round's broadcast is here, or was until the next one came."""
        return round in self._broadcasts

    def execute(self, slot: Slot, work: CohortWork) -> CohortResult:
        """Run a cohort on a pool's slot, in the slot's thread."""
        execution = self.problem.experiment.execution
        with slot.active(execution.intra_op_threads, execution.tf32):  # what makes a replica too: its stream reads it
            replica = slot.replicas.get(self.run)
            # A task that outlives its run may leave a replica behind: of the same name, but of another site's data.
            if not isinstance(replica, _Replica) or replica.site is not self:
                alone = CohortRunner(self.problem, self.algorithm, self.work, slot.device, self.files)
                replica = slot.replicas[self.run] = _Replica(self, ChosenRunner(alone, self.fusing))
            try:
                result = replica.runner.run(self._received(work.round, slot.device), work)
            except torch.OutOfMemoryError as error:
                raise RunError(
                    f"a task of {len(work.clients)} clients finds no memory left on {slot.device}: {error}; take a "
                    "smaller [execution] cohort or [local] batch_size"
                ) from error
            return reduced(result, work, self.work.compressor, self._layout)

    def _received(self, round: int, device: torch.device) -> Broadcast:
        with self._lock:
            broadcast = self._broadcasts.get(round)
            if broadcast is None:  # a copy of a task that others have finished: nobody waits for it
                raise RunError(f"round {round} is over")
            if device.type == "cpu":
                return broadcast
            key = (round, device)
            if key not in self._on_device:
                shared = {
                    name: value.to(device) if isinstance(value, Tensor) else value
                    for name, value in broadcast.shared.items()
                }
                self._on_device[key] = Broadcast(round, broadcast.x.to(device), shared)
                torch.cuda.current_stream(device).synchronize()  # other slots' streams read it next
            return self._on_device[key]
