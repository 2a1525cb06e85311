"""`flmaster --reference`: the specification itself, in one thread, with the same observers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from fl_core.errors import FlspanError
from fl_core.metrics import evaluate
from fl_core.reference import run_reference
from fl_core.session import Session
from master import events
from master.round_loop import Outcome

_CUMULATIVE = ("oracle_calls", "bits_up", "bits_down")


class ReferenceLoop:
    """Runs `fl_core.reference` and tells the observers what they would hear of a distributed run."""

    def __init__(self, run: str, session: Session, emit: Callable[[events.Event], None]) -> None:
        self._run = run
        self._session = session
        self._emit = emit
        self._stopping = False

    def stop(self) -> None:
        """End after the round under way."""
        self._stopping = True

    async def run(self) -> Outcome:
        """Run all rounds, one after the other, in a thread."""
        experiment, problem = self._session.experiment, self._session.problem
        table = experiment.evaluate
        oracle = problem.oracle("cpu")
        last: dict[str, float] = {}
        totals = dict.fromkeys(_CUMULATIVE, 0.0)
        x, number, elapsed_s = problem.x0, 0, 0.0
        rounds = run_reference(self._session)
        try:
            while not self._stopping:
                started = time.perf_counter()
                step = await asyncio.to_thread(next, rounds, None)
                if step is None:
                    break
                server, metrics = step
                x, number = server.x, int(metrics.pop("round"))
                for name in _CUMULATIVE:
                    totals[name] += metrics[name]
                elapsed_s += time.perf_counter() - started
                metrics |= totals | {"round_s": time.perf_counter() - started, "elapsed_s": elapsed_s}
                due = bool(table.metrics) and (number % table.every == 0 or number == experiment.rounds)
                self._emit(
                    events.RoundFinished(
                        time_s=time.time(), run=self._run, round=number, metrics=metrics, evaluates=due
                    )
                )
                last |= metrics
                if due:
                    found = await asyncio.to_thread(evaluate, problem, oracle, x, table.metrics)
                    last |= found
                    self._emit(events.Evaluated(time_s=time.time(), run=self._run, round=number, metrics=found))
        except FlspanError as error:
            return Outcome("failed", number, x, last, str(error))
        return Outcome("stopped" if self._stopping else "finished", number, x, last)
