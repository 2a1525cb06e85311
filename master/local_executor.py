"""The master's own device pools, as an executor like any worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import torch

from fl_core.errors import FlspanError, RunError
from fl_core.execution.choice import Decision
from fl_core.execution.cohort import FOREIGN_DRAWS, FOREIGN_DRAWS_TEXT, CohortResult, CohortWork
from fl_core.execution.pool import DevicePool, Slot
from fl_core.execution.site import Site
from fl_core.server import Broadcast
from master import events
from master.cluster import Cluster, Lane, OpenRun
from master.dispatch_vocabulary import TaskId


class LocalExecutor:
    """Runs cohorts on threads of this process. Results come back to the event loop.

    Args:
        pool: closed by whoever made it.
    """

    def __init__(self, cluster: Cluster, pool: DevicePool) -> None:
        self.id = self.name = "local"
        self.slots = self.credit = pool.slots
        self.devices: Sequence[torch.device] = pool.devices
        self._cluster = cluster
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._sites: dict[str, Site] = {}
        self._told: dict[str, Decision] = {}
        self._has_told_of_draws = False

    def prepare(self, run: OpenRun) -> None:
        """The run's problem is at hand already."""
        session = run.session
        decided = run.decided.get(self.name)
        files = session.user_files()
        self._sites[run.name] = Site(run.name, session.problem, session.algorithm, session.work, files, decided)

    def assign(self, run: OpenRun, work: CohortWork, attempt: int) -> None:
        """Queue the cohort on the pool."""
        if run.name not in self._sites:
            self.prepare(run)
        site = self._sites[run.name]
        assert run.round is not None
        if not site.has_round(work.round):
            site.receive(run.round.broadcast)
        task, conclude = TaskId(run.name, work.round, work.index), run.conclude

        def execute(slot: Slot) -> CohortResult:
            found = site.execute(slot, work)
            if conclude is not None:
                conclude(work.index, found, Lane(self.name, partial(_lead, site, slot)))
            return found

        def tell(found: CohortResult | BaseException) -> None:
            with suppress(RuntimeError):  # the loop has ended: nobody waits
                self._loop.call_soon_threadsafe(self._finished, task, attempt, found)

        self._pool.start(execute, tell)

    def cancel(self, task: TaskId, attempt: int) -> None:
        """A thread cannot be stopped: the result comes and is discarded."""

    def forget(self, run: str) -> None:
        """Free the run's replicas."""
        self._sites.pop(run, None)
        self._told.pop(run, None)
        self._pool.forget(run)

    def _finished(self, task: TaskId, attempt: int, found: CohortResult | BaseException) -> None:
        if isinstance(found, BaseException):
            known = found if isinstance(found, FlspanError) else RunError(f"{type(found).__name__}: {found}")
            self._cluster.failed(self, task, attempt, known)
            return
        if FOREIGN_DRAWS.is_set() and not self._has_told_of_draws:
            self._has_told_of_draws = True
            self._cluster.emit(events.Warned(time_s=time.time(), text=FOREIGN_DRAWS_TEXT))
        site = self._sites.get(task.run)
        decision = None if site is None else site.fusing.decision()
        if decision is not None and decision is not self._told.get(task.run):
            self._told[task.run] = decision
            self._cluster.decided(self, task.run, decision)
        self._cluster.result(self, task, attempt, found)


def _lead(site: Site, slot: Slot, broadcast: Broadcast, work: CohortWork) -> CohortResult:
    """Begin a round at the site, and run its only task."""
    site.receive(broadcast)
    return site.execute(slot, work)
