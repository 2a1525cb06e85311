"""Measuring the model beside the rounds: in a thread of its own, while the next round is under way.

It changes no number of the run; what it finds may end the run: a threshold of `[stop]`, or a value that is no number.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import torch

from fl_core.execution.pooling import hasten_pooling
from fl_core.metrics import evaluate
from master import events
from master.side_thread import SideThread
from master.stopping import divergence, is_reached

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fl_core.oracle import Oracle
    from fl_core.session import Session


class Evaluations:
    """The evaluations of one run. All calls are on the event loop.

    Attributes:
        under_way: their tasks.
        found: the newest value of each metric.
        is_enough: a threshold of `[stop]` is reached.
        diverged: why no further round means anything; empty while all is well.
    """

    def __init__(self, run: str, session: Session, emit: Callable[[events.Event], None]) -> None:
        self.under_way: set[asyncio.Task[None]] = set()
        self.found: dict[str, float] = {}
        self.is_enough = False
        self.diverged = ""
        self._run = run
        self._session = session
        self._emit = emit
        self._oracle: Oracle | None = None
        self._thread = SideThread("evaluate")

    def is_due(self, number: int) -> bool:
        """Whether the model is measured after this round (0: before the first)."""
        table, last = self._session.experiment.evaluate, self._session.experiment.rounds
        return bool(table.metrics) and (number in (0, last) or number % table.every == 0)

    def start(self, number: int, x: torch.Tensor) -> None:
        """Measure x `[d]`, the model after this round."""
        task = asyncio.create_task(self._measure(number, x))
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)

    def check(self, number: int, metrics: Mapping[str, float]) -> None:
        """Note if one of the round's own metrics is NaN: no further round means anything then."""
        self.diverged = self.diverged or divergence(number, metrics)

    def close(self) -> None:
        """End the thread; nothing is under way any more."""
        self._thread.close()

    async def _measure(self, number: int, x: torch.Tensor) -> None:
        try:
            found = await self._thread.call(self._evaluate, x)
        except Exception as error:  # a user's model may fail on the test set; the training goes on
            found = {}
            text = f"the evaluation after round {number} failed: {type(error).__name__}: {error}"
            self._emit(events.Warned(time_s=time.time(), text=text))
        self.found |= found
        self._emit(events.Evaluated(time_s=time.time(), run=self._run, round=number, metrics=found))
        self.is_enough |= is_reached(self._session.experiment.stop, found)
        self.check(number, found)

    def _evaluate(self, x: torch.Tensor) -> dict[str, float]:
        if self._oracle is None:
            self._oracle = self._session.problem.oracle("cpu")
            hasten_pooling(self._oracle.model)
        return evaluate(self._session.problem, self._oracle, x, self._session.experiment.evaluate.metrics)
