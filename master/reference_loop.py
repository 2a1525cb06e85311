"""`flmaster --reference`: the specification itself, in one thread, with the same observers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Literal

from fl_core.errors import FlspanError
from fl_core.metrics import evaluate
from fl_core.reference import run_reference
from fl_core.session import Session
from master import events
from master.outcome import Outcome, told
from master.stopping import divergence, is_reached

_CUMULATIVE = ("oracle_calls", "bits_up", "bits_down")


class ReferenceLoop:
    """Runs `fl_core.reference` and tells the observers what they would hear of a distributed run."""

    def __init__(self, run: str, session: Session, emit: Callable[[events.Event], None]) -> None:
        self._run = run
        self._session = session
        self._emit = emit
        self._stopping = False
        self._reached = False
        self._diverged = ""
        self._oracle = session.problem.oracle("cpu")
        self._number = 0
        self._x = session.problem.x0
        self._last: dict[str, float] = {}
        self._totals: dict[str, float] = dict.fromkeys(_CUMULATIVE, 0) | {"elapsed_s": 0.0}

    def stop(self) -> None:
        """End after the round under way."""
        self._stopping = True

    async def run(self) -> Outcome:
        """Run all rounds, one after the other, in a thread."""
        try:
            await self._rounds()
        except FlspanError as error:
            return self._outcome("failed", told(error))
        if self._diverged:
            return self._outcome("failed", self._diverged)
        is_short = self._number < self._session.experiment.rounds and not self._reached
        return self._outcome("stopped" if is_short else "finished")

    async def _rounds(self) -> None:
        experiment = self._session.experiment
        if experiment.evaluate.metrics:
            await self._tell(0, {}, due=True)
        rounds = run_reference(self._session)
        while not (self._stopping or self._reached or self._diverged):
            started = time.perf_counter()
            step = await asyncio.to_thread(next, rounds, None)
            if step is None:
                return
            server, metrics = step
            self._x, self._number = server.x, int(metrics.pop("round"))
            round_s = time.perf_counter() - started
            for name, value in {**{name: metrics[name] for name in _CUMULATIVE}, "elapsed_s": round_s}.items():
                self._totals[name] += value
            table = experiment.evaluate
            due = bool(table.metrics) and (self._number % table.every == 0 or self._number == experiment.rounds)
            await self._tell(self._number, metrics | self._totals | {"round_s": round_s}, due)

    async def _tell(self, number: int, metrics: dict[str, float], due: bool) -> None:
        self._emit(
            events.RoundFinished(time_s=time.time(), run=self._run, round=number, metrics=metrics, evaluates=due)
        )
        self._last |= metrics
        self._diverged = self._diverged or divergence(number, metrics)
        if due:
            names = self._session.experiment.evaluate.metrics
            found = await asyncio.to_thread(evaluate, self._session.problem, self._oracle, self._x, names)
            self._last |= found
            self._emit(events.Evaluated(time_s=time.time(), run=self._run, round=number, metrics=found))
            self._reached |= is_reached(self._session.experiment.stop, found)
            self._diverged = self._diverged or divergence(number, found)

    def _outcome(self, reason: Literal["finished", "stopped", "failed"], text: str = "") -> Outcome:
        return Outcome(reason, self._number, self._x, self._last, text)
