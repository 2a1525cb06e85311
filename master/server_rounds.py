"""The server's half of a round: everything between two rounds' local work. Nothing here is on the event loop.

A slot that takes the server's turn (`master.server_turn`) may then run whole rounds of one task by itself, for a
moment: the event loop hears of them together. A short round takes little more than the way to the loop and back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import torch

from fl_core.execution.cohort import CohortResult, CohortWork, Skipped
from fl_core.execution.reduction import Gathered, Gathering
from fl_core.memories import ClientMemories
from fl_core.replies import UnreducedError
from fl_core.server import Round, Server
from fl_core.session import Session
from master.checkpoint import Checkpoint
from master.cluster import Lane

CUMULATIVE = ("oracle_calls", "bits_up", "bits_down")
_NO_ROUND = RuntimeError("there is no round after the last")
_LED_S = 20e-3
"""So long a slot may go on by itself before the event loop hears of its rounds; only with rounds that are shorter."""


class Opened(NamedTuple):
    """A round that the server has begun, and its tasks."""

    round: Round
    works: list[CohortWork]


class Led(NamedTuple):
    """Of a round that a slot has run by itself, what the cluster tells of others.

    Attributes:
        executor: its name. task: the index of the only one.
    """

    executor: str
    clients: int
    task: int


class Turn(NamedTuple):
    """What the server hands back after a round.

    Attributes:
        opened: the next round, or why it came to nothing.
        skipped: its clients that were left out.
        task_s: what its tasks took together.
        ended: by `time.perf_counter`.
        led: by whom; None: by the cluster.
    """

    number: int
    metrics: dict[str, float]
    checkpoint: Checkpoint | None
    opened: Opened | Exception
    skipped: list[Skipped]
    task_s: float
    ended: float
    led: Led | None = None


class ServerRounds:
    """The rounds of one run as its server sees them; whoever calls holds `SideThread.lent` of the server's thread
    (but in the local work between two turns).

    Args:
        totals: of the run, by CUMULATIVE and more; the former are added up here.

    Attributes:
        memories: what clients remember.
    """

    def __init__(
        self,
        session: Session,
        server: Server,
        memories: ClientMemories,
        totals: dict[str, float],
    ) -> None:
        self.memories = memories
        self._session = session
        self._server = server
        self._totals = totals

    def begin(self, number: int) -> Opened:
        """Sample the participants of a round and make what they are sent."""
        round = self._server.begin_round(number)
        works, asked = [], self._server.asked()
        for index, cohort in enumerate(round.cohorts):
            own = {name: torch.stack([values[i] for i in cohort]) for name, values in round.broadcast.own.items()}
            memory, versions = self.memories.gather(cohort), self.memories.versions(cohort)
            works.append(CohortWork(number, index, cohort, memory, own, asked, versions))
        return Opened(round, works)

    def turns(
        self, round: Round, gathering: Gathering, may_follow: Callable[[Turn], bool], lane: Lane | None = None
    ) -> Iterator[list[Turn] | None]:
        """The turn after a round whose results are gathered; then those of the rounds that the lane's slot leads.

        Yields:
            All turns so far after each; None after the local work of the next round, when its turn is due. Whoever goes
            on after a list has local work done, and may as well not go on: nothing of the server's is touched.

        Args:
            may_follow: after this turn, whether the next round may begin without the event loop; asked in any thread.

        Raises UnreducedError: the round needs rows that were not kept; or what else the method raised.
        """
        found = [self._turn(round, gathering)]
        until = found[0].ended + _LED_S
        yield found
        while lane is not None and found[-1].ended < until and may_follow(found[-1]):
            following = found[-1].opened
            if isinstance(following, Exception) or len(following.works) != 1 or found[-1].task_s > _LED_S:
                return
            try:
                result = lane.execute(following.round.broadcast, following.works[0])
            except Exception:  # the cluster runs it again: there it is known what follows from it
                return
            yield None
            try:
                found.append(self._led(following, result, lane.executor))
            except UnreducedError:  # nothing has changed: the event loop asks for the rows
                return
            except Exception as error:
                found[-1] = found[-1]._replace(opened=error)
            yield found

    def checkpoint(self) -> Checkpoint:
        """Of the last round that is finished."""
        return Checkpoint.take(self._server, self.memories, self._totals)

    def _led(self, opened: Opened, result: CohortResult, executor: str) -> Turn:
        round, (work,) = opened
        gathering = Gathering(round.number, [work], self._session.work, self._session.layout)
        gathering.add(work.index, result)
        return self._turn(round, gathering)._replace(led=Led(executor, round.clients, work.index))

    def _turn(self, round: Round, gathering: Gathering) -> Turn:
        experiment, number = self._session.experiment, round.number
        found = gathering.gathered()
        metrics = self._finish(round, found)
        checkpoint = self.checkpoint() if number % experiment.checkpoint.every == 0 else None
        opened: Opened | Exception = _NO_ROUND
        try:
            if number < experiment.rounds:
                opened = self.begin(number + 1)
        except Exception as error:  # it is the next round's: this one is told first
            opened = error
        skipped = [each for result in found.results for each in result.skipped]
        return Turn(
            number, metrics, checkpoint, opened, skipped, _total(found.results, "seconds_s"), time.perf_counter()
        )

    def _finish(self, round: Round, found: Gathered) -> dict[str, float]:
        metrics = self._server.finish_round(found.cohorts, found.sums)
        finished = found.results
        for result in finished:  # a client's memory changes when its round commits, not before
            self.memories.commit(result.clients, result.memory, round.number)
        seen = _total(finished, "loss_count")
        if seen:
            metrics["loss_train"] = _total(finished, "loss_sum") / seen
        took_part = sum(len(result.clients) for result in finished)
        if self._session.experiment.on_error == "skip":
            metrics["skipped"] = round.clients - took_part
        self._totals["oracle_calls"] += int(_total(finished, "oracle_calls"))
        self._totals["bits_up"] += found.bits
        self._totals["bits_down"] += round.broadcast.bits
        return {"clients": took_part, **metrics, **{name: self._totals[name] for name in CUMULATIVE}}


def _total(results: Sequence[CohortResult], name: str) -> float:
    return math.fsum(chain.from_iterable(result.metrics[name] for result in results))


__all__ = ["CUMULATIVE", "Led", "Opened", "ServerRounds", "Turn"]
