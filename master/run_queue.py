"""The runs of one start, in order, several under way at once if asked (`--parallel-runs N`).

Runs share the workers and nothing else: each has its own server, memories and folder, and its random numbers are keyed
by its own seed. So how many are under way changes no number of any of them, but times.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from fl_core.errors import InputError, UserCodeError
from fl_core.experiment.schema import Experiment
from master.one_run import OneRun


class RunQueue:
    """Executes experiments, at most `at_once` at a time.

    Args:
        make: the run of an experiment, not begun yet.
    """

    def __init__(self, make: Callable[[Experiment], OneRun], at_once: int = 1) -> None:
        self._make = make
        self._at_once = at_once
        self._under_way: list[OneRun] = []
        self._stopped = False
        self._failed = False
        self.is_unsaved = False
        """Something of a run could not be written."""
        self._error: Exception | None = None
        self._refused: InputError | UserCodeError | None = None
        self._begun = False
        self._count = 0
        self._turns: dict[str, asyncio.Lock] = {}

    async def run(self, experiments: Sequence[Experiment]) -> bool:
        """Execute them all; whether none of them failed. One whose input is wrong fails alone.

        Raises:
            InputError, UserCodeError: no run could begin; that of the first.
            Exception: what no other run would fare better with (the runs folder cannot be written, a bug), after those
                under way were saved.
        """
        self._count = len(experiments)
        waiting = deque(enumerate(experiments, start=1))
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._at_once, len(experiments))):
                group.create_task(self._execute(waiting, len(experiments)))
        if self._error is not None:
            raise self._error
        if self._refused is not None and not (self._begun or self._stopped):
            raise self._refused
        return not self._failed

    def stop(self) -> None:
        """End those under way, with everything saved, and begin no other."""
        self._stopped = True
        for run in self._under_way:
            run.stop()

    async def _execute(self, waiting: deque[tuple[int, Experiment]], of: int) -> None:
        """One after the other, until none is left."""
        while waiting:
            position, experiment = waiting.popleft()
            run = self._make(experiment)
            # A sweep may hold the same experiment twice: the second finds the first one's folder, finished.
            async with self._turns.setdefault(run.name, asyncio.Lock()):
                if self._stopped:
                    return
                self._under_way.append(run)
                try:
                    if not await run.execute(position, of):
                        self._failed = True
                    self._begun = True
                except (InputError, UserCodeError) as error:
                    self._failed, self._refused = True, self._refused or error
                    if self._count > 1:  # of a single run the command itself says it
                        run.refuse(error)
                except Exception as error:  # in a TaskGroup it would cut the others off, unsaved
                    self._error = self._error or error
                    self.stop()
                finally:
                    self._under_way.remove(run)
                    self.is_unsaved = self.is_unsaved or run.is_unsaved


__all__ = ["RunQueue"]
