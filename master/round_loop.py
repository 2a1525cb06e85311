"""The round loop: Algorithm 1, with the local work on a cluster and everything slow beside it.

Read `fl_core.reference` first: this is the same algorithm. Torch runs in three helper threads, never on the event
loop: the server's (`master.server_rounds` says what it does; `master.server_turn`, when a slot acts in its place), the
evaluation's and the saver's. A round's evaluation and its checkpoint run while the next round is under way; neither
changes a number of the run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from fl_core.errors import FlspanError
from fl_core.execution.cohort import CohortWork
from fl_core.execution.reduction import Gathering
from fl_core.memories import ClientMemories
from fl_core.replies import UnreducedError
from fl_core.server import Round
from fl_core.session import Session
from fl_core.state import initial_values
from master import events
from master.checkpoint import Checkpoint
from master.cluster import Cluster
from master.dispatch_vocabulary import TaskId
from master.evaluations import Evaluations
from master.outcome import Outcome, told
from master.runs import MEMORIES
from master.server_rounds import CUMULATIVE, Led, Opened, ServerRounds, Turn
from master.server_turn import ServerTurn
from master.side_thread import SideThread
from master.stopping import divergence

_WIRE = ("wire_bytes_sent", "wire_bytes_received")
_TOLD_SKIPS = 20
"""Clients that are named when they are skipped; a method that fails on all would fill the log."""


class RoundLoop:
    """One run from its first (or next) round to its last.

    Args:
        run: its name on the cluster.
        save: writes a checkpoint; called in the saver's thread. It must not raise.
        wire_bytes: (sent, received), what the sockets of this process have carried so far.
        flush: has every event so far written down. A checkpoint is saved after the lines of its rounds, since a resumed
            run does not make up for them.
    """

    def __init__(
        self,
        run: str,
        session: Session,
        cluster: Cluster,
        save: Callable[[Checkpoint], None],
        wire_bytes: Callable[[], tuple[int, int]] = lambda: (0, 0),
        flush: Callable[[], None] = lambda: None,
    ) -> None:
        self.run_name = run
        self.session = session
        self.cluster = cluster
        self._emit = cluster.emit
        self._save = save
        self._wire_bytes = wire_bytes
        self._flush = flush
        self._server = session.server()
        self._totals: dict[str, float] = dict.fromkeys((*CUMULATIVE, *_WIRE), 0) | {"elapsed_s": 0.0}
        memories = memories_of(session)
        self._server_rounds = ServerRounds(session, self._server, memories, self._totals)
        self._wire_seen = wire_bytes()  # runs before this one used the same sockets
        self._stopping = False
        self._rounds_told = 0
        self._last: dict[str, float] = {}
        self._evaluations = Evaluations(run, session, cluster.emit)
        self._threads = {name: SideThread(name) for name in ("server", "save")}
        self._skips_told = 0
        self._savings: set[asyncio.Task[None]] = set()
        self._has_gpu = torch.cuda.is_available()
        # The server's operations run in one thread each, whoever runs them: their last bits may depend on it.
        self._slots_are_alike = session.experiment.execution.intra_op_threads == 1

    def keep_memories_in(self, folder: Path) -> None:
        """Before anything else: what clients remember lies in a file of this folder, if the experiment says "disk"."""
        if self.session.experiment.clients.client_memory == "disk":
            self._server_rounds.memories = memories_of(self.session, folder / MEMORIES)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on after the checkpoint's round."""
        checkpoint.restore(self._server, self._server_rounds.memories)
        self._totals |= checkpoint.totals

    def stop(self) -> None:
        """End now, with everything saved. The round under way is given up: when resumed it is run again, the same."""
        self._stopping = True
        self.cluster.give_up_round(self.run_name)

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
            await self._finish_beside()
            if self._evaluations.diverged:
                reason, text = "failed", self._evaluations.diverged
            elif self._stopping and self.rounds_done < self.session.experiment.rounds:
                reason = "stopped"
        except FlspanError as error:
            reason, text = "failed", told(error)
        finally:
            self.cluster.close_run(self.run_name)
            await self._settle(save=first <= self._rounds_told)
        return Outcome(reason, self.rounds_done, self._server.x, self._last | self._evaluations.found, text)

    # --- the rounds ------------------------------------------------------------------------------------------------

    async def _rounds(self, first: int) -> None:
        last = self.session.experiment.rounds
        if first > last:
            return
        opened: Opened | Exception = await self._in_thread("server", self._server_rounds.begin, first)
        finished = first - 1
        while finished < last and not self._is_over():  # before anybody is asked to run it: nobody would give it up
            if isinstance(opened, Exception):
                raise opened
            began = time.perf_counter()
            self._tell_begun(opened.round, opened.round.number, len(opened.works), began)
            turns = await self._executed(*opened)
            if turns is None:
                return
            for turn in turns:
                await self._finish_round(turn, began)
                began = turn.ended
            finished, opened = turns[-1].number, turns[-1].opened

    async def _executed(self, round: Round, works: list[CohortWork]) -> list[Turn] | None:
        """The round's local work and the server's turn after it, and those after it that a slot has led.

        None: the round was given up.
        """
        while True:
            gathering = Gathering(round.number, works, self.session.work, self.session.layout)
            turns = partial(self._server_rounds.turns, round, gathering, self._may_follow)
            turn = ServerTurn(self._threads["server"], gathering, turns)
            conclude = turn.conclude if self._slots_are_alike else None
            self.cluster.start_round(self.run_name, round, works, turn.take, turn.over, conclude)
            try:
                return await turn.outcome
            except UnreducedError as error:
                text = f"round {round.number} is run again, with every client's own reply: {error}"
                self._emit(events.Noted(time_s=time.time(), text=text))
                works = [replace(work, index=work.index + len(works), asked={}) for work in works]

    def _is_over(self) -> bool:
        return self._stopping or self._evaluations.is_enough or bool(self._evaluations.diverged)

    def _may_follow(self, turn: Turn) -> bool:
        """Whether a slot may begin the next round by itself: nothing of this one is to be done on the event loop."""
        if turn.checkpoint is not None or self._evaluations.is_due(turn.number) or self.cluster.paused:
            return False
        return not (self._is_over() or divergence(turn.number, turn.metrics))

    async def _finish_round(self, turn: Turn, began: float) -> None:
        """Tell of a finished round, and begin what goes on beside the next: its evaluation, its checkpoint."""
        if turn.led is not None:
            self._tell_begun(turn.led, turn.number, 1, began)
            task = TaskId(self.run_name, turn.number, turn.led.task)
            self.cluster.tell_counted(task, turn.led.executor, turn.task_s, _time_s(turn.ended))
        if turn.checkpoint is not None and self._savings:  # one at a time, and one finished round at risk, not two
            await asyncio.wait(self._savings)
        self._tell_finished(turn, turn.ended - began)
        if turn.checkpoint is not None:
            self._save_beside(replace(turn.checkpoint, totals=dict(self._totals)))  # this round's time in them
        if self.session.experiment.stop:  # which round is the last must not depend on how fast evaluation is
            await self._finish_beside()
        elif len(beside := self._beside()) > 4:  # a slow evaluation or disk holds the rounds up rather than memory
            await asyncio.wait(beside, return_when=asyncio.FIRST_COMPLETED)

    def _tell_begun(self, round: Round | Led, number: int, tasks: int, at: float) -> None:
        self._emit(
            events.RoundStarted(time_s=_time_s(at), run=self.run_name, round=number, clients=round.clients, tasks=tasks)
        )

    def _tell_finished(self, turn: Turn, round_s: float) -> None:
        self._totals["elapsed_s"] += round_s
        metrics = turn.metrics | self._wire_metrics()
        if self._has_gpu:
            metrics["gpu_memory_bytes"] = torch.cuda.max_memory_allocated()
        metrics |= {"round_s": round_s, "elapsed_s": self._totals["elapsed_s"]}
        self._last |= metrics
        self._rounds_told = turn.number
        self._tell_of_skipped(turn)
        self._evaluations.check(turn.number, metrics)
        due = self._evaluations.is_due(turn.number)
        self._emit(
            events.RoundFinished(
                time_s=_time_s(turn.ended), run=self.run_name, round=turn.number, metrics=metrics, evaluates=due
            )
        )
        if due:
            self._evaluations.start(turn.number, self._server.x)

    def _tell_of_skipped(self, turn: Turn) -> None:
        told = turn.skipped
        for each in told[: max(0, _TOLD_SKIPS - self._skips_told)]:
            text = f"round {turn.number}: client {each.client} is skipped: {each.text}"
            self._emit(events.Warned(time_s=time.time(), text=text))
        if self._skips_told <= _TOLD_SKIPS < self._skips_told + len(told):
            text = "many clients are skipped: further ones are only counted, in the metric skipped"
            self._emit(events.Warned(time_s=time.time(), text=text))
        self._skips_told += len(told)

    def _wire_metrics(self) -> dict[str, float]:
        now = self._wire_bytes()
        for name, before, after in zip(_WIRE, self._wire_seen, now, strict=True):
            self._totals[name] += after - before
        self._wire_seen = now
        return {name: self._totals[name] for name in _WIRE} if any(self._totals[name] for name in _WIRE) else {}

    def _finish_round_zero(self) -> None:
        """The starting point is measured too: curves begin at x0."""
        if self._evaluations.is_due(0):
            self._emit(events.RoundFinished(time_s=time.time(), run=self.run_name, round=0, metrics={}, evaluates=True))
            self._evaluations.start(0, self._server.x)

    # --- beside the rounds -----------------------------------------------------------------------------------------

    def _save_beside(self, checkpoint: Checkpoint) -> None:
        task = asyncio.create_task(self._saving(checkpoint, self._evaluations.under_way.copy()))
        self._savings.add(task)
        task.add_done_callback(self._savings.discard)

    async def _saving(self, checkpoint: Checkpoint, evaluations: set[asyncio.Task[None]]) -> None:
        """Save what was taken when these evaluations were under way: a resumed run does not make up for their lines."""
        if evaluations:
            await asyncio.wait(evaluations)
        self._flush()
        await self._in_thread("save", self._save, checkpoint)

    def _beside(self) -> set[asyncio.Task[None]]:
        return self._savings | self._evaluations.under_way

    async def _finish_beside(self) -> None:
        while beside := self._beside():
            await asyncio.gather(*beside)

    async def _settle(self, save: bool) -> None:
        await self._finish_beside()
        if save:
            self._flush()
            checkpoint = await self._in_thread("server", self._server_rounds.checkpoint)
            # Else it was cancelled in a turn, and that line is missing; or the turn failed in mid-step.
            if checkpoint.round == self._rounds_told and self._server.is_whole:
                await self._in_thread("save", self._save, checkpoint)
        self._evaluations.close()
        for thread in self._threads.values():
            thread.close()
        self._server_rounds.memories.close()

    async def _in_thread(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        return await self._threads[name].call(function, *arguments)


def memories_of(session: Session, file: Path | None = None) -> ClientMemories:
    """Nobody's yet; in a file where one is named."""
    declared = initial_values(session.algorithm.Memory, type(session.algorithm).__name__)
    return ClientMemories(declared, session.problem.d, session.problem.dtype, file)


def _time_s(at: float) -> float:
    """Of a moment of `time.perf_counter`, the time of day."""
    return time.time() - (time.perf_counter() - at)
