"""The round loop: Algorithm 1, with the local work on a cluster and everything slow beside it.

Read `fl_core.reference` first: this is the same algorithm. Torch runs in three helper threads, never on the event
loop: the server's (sampling, decoding, server step), the evaluation's and the saver's. A round's evaluation and its
checkpoint run while the next round is under way; neither changes a number of the run.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from fl_core.errors import FlspanError, UserCodeError
from fl_core.execution.cohort import CohortResult, CohortWork, decode
from fl_core.memories import ClientMemories
from fl_core.metrics import evaluate
from fl_core.oracle import Oracle
from fl_core.server import Round
from fl_core.session import Session
from fl_core.state import initial_values
from master import events
from master.checkpoint import Checkpoint
from master.cluster import Cluster

_CUMULATIVE = ("oracle_calls", "bits_up", "bits_down")
_WIRE = ("wire_bytes_sent", "wire_bytes_received")


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `x` is the model after the last round."""

    reason: Literal["finished", "stopped", "failed"]
    rounds: int
    x: torch.Tensor
    metrics: dict[str, float]
    text: str = ""


class RoundLoop:
    """One run from its first (or next) round to its last.

    Args:
        run: its name on the cluster.
        save: writes a checkpoint; called in the saver's thread. It must not raise.
        wire_bytes: (sent, received), what the sockets of this process have carried so far.
    """

    def __init__(
        self,
        run: str,
        session: Session,
        cluster: Cluster,
        save: Callable[[Checkpoint], None],
        wire_bytes: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        self.run_name = run
        self.session = session
        self.cluster = cluster
        self._emit = cluster.emit
        self._save = save
        self._wire_bytes = wire_bytes
        self._server = session.server()
        declared = initial_values(session.algorithm.Memory, type(session.algorithm).__name__)
        self._memories = ClientMemories(declared, session.problem.d, session.problem.dtype)
        self._totals: dict[str, float] = dict.fromkeys((*_CUMULATIVE, *_WIRE), 0) | {"elapsed_s": 0.0}
        self._wire_seen = wire_bytes()  # runs before this one used the same sockets
        self._stopping = False
        self._diverged = ""
        self._last: dict[str, float] = {}
        self._evaluator: Oracle | None = None
        self._threads = {
            name: ThreadPoolExecutor(1, thread_name_prefix=name) for name in ("server", "evaluate", "save")
        }
        self._beside: set[asyncio.Task[None]] = set()
        self._evaluations: set[asyncio.Task[None]] = set()
        self._stop_reached = False
        self._under_way: asyncio.Future[list[CohortResult]] | None = None

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on after the checkpoint's round."""
        checkpoint.restore(self._server, self._memories)
        self._totals |= checkpoint.totals

    def stop(self) -> None:
        """End now, with everything saved. The round under way is given up: when resumed it is run again, the same."""
        self._stopping = True
        if self._under_way is not None:
            self._under_way.cancel()

    @property
    def rounds_done(self) -> int:
        """Rounds finished so far, those before a resume included."""
        return self._server.finished_rounds

    async def run(self) -> Outcome:
        """Run the remaining rounds. Everything is saved when this returns, however it ends."""
        reason: Literal["finished", "stopped", "failed"] = "finished"
        text = ""
        first = self._server.finished_rounds + 1
        try:
            if first == 1:
                self._finish_round_zero()
            await self._rounds(first)
            await self._finish_alongside()
            if self._diverged:
                reason, text = "failed", self._diverged
            elif self._stopping and self.rounds_done < self.session.experiment.rounds:
                reason = "stopped"
        except FlspanError as error:
            reason, text = "failed", told(error)
        finally:
            self.cluster.close_run(self.run_name)
            await self._settle(save=first <= self.rounds_done)
        return Outcome(reason, self.rounds_done, self._server.x, self._last, text)

    # --- the rounds ------------------------------------------------------------------------------------------------

    async def _rounds(self, first: int) -> None:
        experiment = self.session.experiment
        for number in range(first, experiment.rounds + 1):
            if self._is_over():
                return
            started = time.perf_counter()
            round, works = await self._in_thread("server", self._begin, number)
            if self._is_over():  # stopped meanwhile: nobody would give up the round that begins now
                return
            self._emit(
                events.RoundStarted(
                    time_s=time.time(),
                    run=self.run_name,
                    round=number,
                    clients=len(round.participants),
                    tasks=len(works),
                )
            )
            self._under_way = asyncio.ensure_future(self.cluster.run_round(self.run_name, round, works))
            await asyncio.wait([self._under_way])
            if self._under_way.cancelled():
                return
            results = self._under_way.result()
            metrics = await self._in_thread("server", self._finish, round, results)
            self._finish_round(number, metrics, time.perf_counter() - started)
            if number % experiment.checkpoint.every == 0:
                checkpoint = await self._in_thread("server", self._checkpoint)
                self._alongside(self._saving(checkpoint, list(self._evaluations)))
            if experiment.stop:  # which round is the last must not depend on how fast evaluation is
                await self._finish_alongside()
            elif len(self._beside) > 4:  # a slow evaluation or disk holds the rounds up rather than memory
                await asyncio.wait(self._beside, return_when=asyncio.FIRST_COMPLETED)

    def _is_over(self) -> bool:
        return self._stopping or self._stop_reached

    def _begin(self, number: int) -> tuple[Round, list[CohortWork]]:
        round = self._server.begin_round(number)
        works = []
        for index, cohort in enumerate(round.cohorts):
            own = {name: torch.stack([values[i] for i in cohort]) for name, values in round.broadcast.own.items()}
            works.append(CohortWork(number, index, cohort, self._memories.gather(cohort), own))
        return round, works

    def _finish(self, round: Round, results: list[CohortResult]) -> dict[str, float]:
        session = self.session
        bits_up = sum(result.bits for result in results)
        cohorts, finished = [], []
        while results:  # the list is used up: a cohort's bytes are let go as soon as they are decoded
            result = results.pop(0)
            cohorts.append(decode(result, round.number, session.work, session.layout))
            finished.append(replace(result, coded={}, dense={}))
        metrics = self._server.finish_round(cohorts)
        for result in finished:  # a client's memory changes when its round commits, not before
            self._memories.commit(result.clients, result.memory)
        seen = _total(finished, "loss_count")
        if seen:
            metrics["loss_train"] = _total(finished, "loss_sum") / seen
        self._totals["oracle_calls"] += int(_total(finished, "oracle_calls"))
        self._totals["bits_up"] += bits_up
        self._totals["bits_down"] += round.broadcast.bits
        return {"clients": len(round.participants), **metrics}

    def _finish_round(self, number: int, metrics: dict[str, float], round_s: float) -> None:
        self._totals["elapsed_s"] += round_s
        metrics |= {name: self._totals[name] for name in _CUMULATIVE} | self._wire_metrics()
        if torch.cuda.is_available():
            metrics["gpu_memory_bytes"] = torch.cuda.max_memory_allocated()
        metrics |= {"round_s": round_s, "elapsed_s": self._totals["elapsed_s"]}
        self._last |= metrics
        due = self._evaluation_is_due(number)
        self._emit(
            events.RoundFinished(time_s=time.time(), run=self.run_name, round=number, metrics=metrics, evaluates=due)
        )
        if due:
            self._evaluate_alongside(number)

    def _wire_metrics(self) -> dict[str, float]:
        now = self._wire_bytes()
        for name, before, after in zip(_WIRE, self._wire_seen, now, strict=True):
            self._totals[name] += after - before
        self._wire_seen = now
        return {name: self._totals[name] for name in _WIRE} if any(self._totals[name] for name in _WIRE) else {}

    def _finish_round_zero(self) -> None:
        """The starting point is measured too: curves begin at x0."""
        if self.session.experiment.evaluate.metrics:
            self._emit(events.RoundFinished(time_s=time.time(), run=self.run_name, round=0, metrics={}, evaluates=True))
            self._evaluate_alongside(0)

    # --- beside the rounds -----------------------------------------------------------------------------------------

    def _evaluation_is_due(self, number: int) -> bool:
        table = self.session.experiment.evaluate
        return bool(table.metrics) and (number % table.every == 0 or number == self.session.experiment.rounds)

    def _evaluate_alongside(self, number: int) -> None:
        task = self._alongside(self._evaluation(number, self._server.x))
        self._evaluations.add(task)
        task.add_done_callback(self._evaluations.discard)

    async def _evaluation(self, number: int, x: torch.Tensor) -> None:
        try:
            found = await self._in_thread("evaluate", self._evaluate, x)
        except Exception as error:  # a user's model may fail on the test set; the training goes on
            found = {}
            text = f"the evaluation after round {number} failed: {type(error).__name__}: {error}"
            self._emit(events.Warned(time_s=time.time(), text=text))
        self._last |= found
        self._emit(events.Evaluated(time_s=time.time(), run=self.run_name, round=number, metrics=found))
        for name, threshold in self.session.experiment.stop.items():
            value = found.get(name)
            better = -1 if name.startswith("accuracy") else 1
            if value is not None and better * value <= better * threshold:
                self._stop_reached = True
        unmeasured = [name for name, value in found.items() if math.isnan(value)]
        if unmeasured and not self._diverged:
            self._diverged = f"round {number}: {unmeasured[0]} is NaN: the method diverges; try a smaller step size"
            self._stopping = True

    def _evaluate(self, x: torch.Tensor) -> dict[str, float]:
        if self._evaluator is None:
            torch.set_num_threads(1)
            self._evaluator = self.session.problem.oracle("cpu")
        return evaluate(self.session.problem, self._evaluator, x, self.session.experiment.evaluate.metrics)

    async def _saving(self, checkpoint: Checkpoint, evaluations: list[asyncio.Task[None]]) -> None:
        """Save what was taken when these evaluations were under way: a resumed run does not make up for their lines."""
        if evaluations:
            await asyncio.wait(evaluations)
        await self._in_thread("save", self._save, checkpoint)

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint.take(self._server, self._memories, self._totals)

    def _alongside(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
        return task

    async def _finish_alongside(self) -> None:
        while self._beside:
            await asyncio.gather(*self._beside)

    async def _settle(self, save: bool) -> None:
        await self._finish_alongside()
        if save:
            await self._in_thread("save", self._save, await self._in_thread("server", self._checkpoint))
        for thread in self._threads.values():
            thread.shutdown(wait=True)

    async def _in_thread(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads[name], function, *arguments)


def _total(results: list[CohortResult], name: str) -> float:
    return math.fsum(value for result in results for value in result.metrics[name])


def told(error: FlspanError) -> str:
    """The error, and where the user's code raised it the traceback."""
    if isinstance(error, UserCodeError) and error.traceback_text:
        return f"{error}\n{error.traceback_text.rstrip()}"
    return str(error)
