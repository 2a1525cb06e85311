"""The server's turn: taken once, by its own thread or by the slot with the only result, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from algorithms.fedavg import FedAvg
from fl_core.errors import UserCodeError
from fl_core.execution.cohort import CohortResult, CohortWork
from fl_core.execution.pool import DevicePool, parse_devices
from fl_core.execution.reduction import Gathering
from fl_core.reference import run_reference
from fl_core.replies import Replies
from fl_core.server import Server
from fl_core.session import Session, open_session
from master import events
from master.checkpoint import Checkpoint
from master.cluster import Cluster, Lane
from master.local_executor import LocalExecutor
from master.round_loop import RoundLoop
from master.server_turn import ServerTurn
from master.side_thread import SideThread
from tests.conftest import small_experiment

pytestmark = pytest.mark.timeout(60)

SESSION = open_session(small_experiment())
RESULT = CohortResult((0,), {}, {}, {}, {"m": [1.0], "seconds_s": [0.0]})
LANE = Lane("local", lambda *_: RESULT)


@pytest.fixture
def thread() -> Iterator[SideThread]:
    """The server's."""
    made = SideThread("server")
    yield made
    made.close()


def turn_of(thread: SideThread, function: Callable[[Lane | None], Any]) -> ServerTurn[Any]:
    """After a round of one task."""
    gathering = Gathering(1, [CohortWork(1, 0, (0,), {}, {})], SESSION.work, SESSION.layout)

    def turns(lane: Lane | None) -> Iterator[Any]:
        yield function(lane)

    return ServerTurn(thread, gathering, turns)


def in_a_slot(turn: ServerTurn[Any]) -> threading.Thread:
    """Another thread, which has the round's only result."""
    slot = threading.Thread(target=turn.conclude, args=(0, RESULT, LANE))
    slot.start()
    return slot


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop's tasks and threads go on until it holds."""
    while not condition():
        await asyncio.sleep(0.001)


async def test_a_round_that_is_over_is_not_concluded(thread: SideThread) -> None:
    """It was given up before its result came: the server does nothing, and nobody is told of a turn."""
    taken: list[int] = []
    turn = turn_of(thread, lambda _: taken.append(1))
    turn.over("given up")
    in_a_slot(turn).join(30)
    assert await turn.outcome is None
    assert taken == []


async def test_a_turn_that_has_begun_counts(thread: SideThread) -> None:
    """The round is given up while a slot takes the turn: it is finished all the same, once the slot is done."""
    begun, go_on = threading.Event(), threading.Event()

    def work(_: Lane | None) -> int:
        begun.set()
        go_on.wait(30)
        return 7

    turn = turn_of(thread, work)
    slot = in_a_slot(turn)
    assert begun.wait(30)
    turn.over("given up")
    beside = thread.call(lambda: go_on.is_set())
    assert not turn.outcome.done()
    go_on.set()
    assert await turn.outcome == 7
    assert await beside, "the server's own thread waits while a slot acts in its place"
    slot.join(30)


def leading(thread: SideThread, begun: list[threading.Event], go_on: threading.Event) -> ServerTurn[Any]:
    """After a round of one task, whose slot then leads: first local work, which says so and waits, then a turn."""
    gathering = Gathering(1, [CohortWork(1, 0, (0,), {}, {})], SESSION.work, SESSION.layout)

    def turns(_: Lane | None) -> Iterator[Any]:
        yield [1]
        begun[0].set()
        go_on.wait(30)
        yield None
        begun[1].set()
        yield [1, 2]

    return ServerTurn(thread, gathering, turns)


async def test_local_work_of_a_lead_holds_nothing_up(thread: SideThread) -> None:
    """The round is given up in it: what is done is told at once, the server's thread goes on, the rest is dropped."""
    begun, go_on = [threading.Event(), threading.Event()], threading.Event()
    turn = leading(thread, begun, go_on)
    slot = in_a_slot(turn)
    assert begun[0].wait(30)
    turn.over("given up")
    assert await turn.outcome == [1]
    assert await thread.call(lambda: 7) == 7
    go_on.set()
    slot.join(30)
    assert not begun[1].is_set()


async def test_turns_of_a_lead_are_told_together(thread: SideThread) -> None:
    """When the slot's result is counted, all are done."""
    begun, go_on = [threading.Event(), threading.Event()], threading.Event()
    go_on.set()
    turn = leading(thread, begun, go_on)
    in_a_slot(turn).join(30)
    turn.take(0, RESULT)
    turn.over("complete")
    assert await turn.outcome == [1, 2]


async def test_a_cancelled_run_ends_a_lead(thread: SideThread) -> None:
    """Nobody waits for an outcome any more: no further turn is taken."""
    begun, go_on = [threading.Event(), threading.Event()], threading.Event()
    turn = leading(thread, begun, go_on)
    slot = in_a_slot(turn)
    assert begun[0].wait(30)
    turn.outcome.cancel()
    turn.over("given up")
    go_on.set()
    slot.join(30)
    assert not begun[1].is_set()


async def test_a_turn_that_waits_for_the_server_s_thread_is_not_taken_after_all(thread: SideThread) -> None:
    """The run is cancelled before it begins: what the server's thread then saves stays the last word."""
    taken: list[int] = []
    turn = turn_of(thread, lambda _: taken.append(1))
    with thread.lent:
        slot = in_a_slot(turn)
        turn.outcome.cancel()
        turn.over("given up")
    slot.join(30)
    assert taken == []


@pytest.mark.parametrize("error", [ValueError("no"), StopIteration(3), SystemExit(2)])
@pytest.mark.parametrize("is_given_up", [False, True])
async def test_what_a_slot_s_turn_raises_is_the_turn_s(
    thread: SideThread, error: BaseException, is_given_up: bool
) -> None:
    """Not the task's: the slot and the thread live on."""

    def fail(_: Lane | None) -> None:
        raise error

    turn = turn_of(thread, fail)
    in_a_slot(turn).join(30)
    turn.take(0, RESULT)  # the event loop hears of it later; it is not gathered twice
    turn.over("given up" if is_given_up else "complete")
    raised = (await asyncio.gather(turn.outcome, return_exceptions=True))[0]
    assert raised is error or (isinstance(error, StopIteration) and isinstance(raised, RuntimeError))
    assert await thread.call(lambda: 7) == 7


async def test_without_a_slot_the_server_s_thread_takes_it(thread: SideThread) -> None:
    """Once the cluster has all results."""
    turn = turn_of(thread, lambda lane: (threading.current_thread().name, lane))
    turn.take(0, RESULT)
    turn.over("complete")
    assert await turn.outcome == ("server", None)


async def test_an_error_of_the_round_is_the_turn_s(thread: SideThread) -> None:
    """A client's code has raised: nothing is there to take a turn with."""
    turn = turn_of(thread, lambda _: 7)
    turn.over(UserCodeError("division by zero"))
    with pytest.raises(UserCodeError, match="division by zero"):
        await turn.outcome


# --- in a run ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Noting(FedAvg):
    """FedAvg that notes in which thread its server computes, and waits in round 2 if it is asked to."""

    waits: bool = False

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        THREADS.append(threading.current_thread().name.partition("_")[0])
        if self.waits and server.round == 2:
            BEGUN.set()
            GO_ON.wait(30)
        return super().server_gradient(server, replies)


THREADS: list[str] = []
BEGUN, GO_ON = threading.Event(), threading.Event()


class Bench:
    """A cluster with a pool of two slots, and what loops on it tell and save."""

    def __init__(self) -> None:
        THREADS.clear()
        BEGUN.clear()
        GO_ON.clear()
        self.told: list[events.Event] = []
        self.saved: list[Checkpoint] = []
        self.cluster = Cluster(self.told.append)
        self.pool = DevicePool(parse_devices("cpu"), 2)
        self.cluster.join(LocalExecutor(self.cluster, self.pool))

    def loop(self, session: Session, name: str = "r") -> RoundLoop:
        self.cluster.open_run(name, session)
        return RoundLoop(name, session, self.cluster, self.saved.append)

    def rounds(self, kind: type[events.Event] = events.RoundFinished) -> list[int]:
        return [event.round for event in self.told if isinstance(event, kind)]  # type: ignore[attr-defined]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """With a local pool."""
    made = Bench()
    yield made
    GO_ON.set()
    await made.cluster.close()
    await asyncio.to_thread(made.pool.close)


def session_of(cohort: int, *, waits: bool = False, intra_op_threads: int = 1, **tables: Any) -> Session:
    """Four clients a round, in cohorts of so many."""
    execution = {"cohort": cohort, "fuse": "never", "intra_op_threads": intra_op_threads}
    return replace(open_session(small_experiment(execution=execution, **tables)), algorithm=Noting(waits=waits))


@pytest.mark.parametrize(("cohort", "intra_op_threads", "where"), [(4, 1, "slot"), (2, 1, "server"), (4, 2, "server")])
async def test_who_takes_the_turn(bench: Bench, cohort: int, intra_op_threads: int, where: str) -> None:
    """The slot with the only result, where its operations run in as many threads as the server's; the bytes are one."""
    session = session_of(cohort, intra_op_threads=intra_op_threads)
    outcome = await bench.loop(session).run()
    assert [where] * 3 == THREADS
    assert outcome.reason == "finished"
    assert torch.equal(outcome.x, [server.x.clone() for server, _ in run_reference(session)][-1])
    assert bench.rounds() == [0, 1, 2, 3]
    assert bench.rounds(events.TaskFinished) == [number for number in (1, 2, 3) for _ in range(4 // cohort)]


async def test_a_stop_during_a_slot_s_turn_leaves_a_finished_round(bench: Bench) -> None:
    """The round is told and saved; the next one is not begun."""
    session = session_of(4, waits=True, rounds=9)
    loop = bench.loop(session)
    running = asyncio.create_task(loop.run())
    await until(BEGUN.is_set)
    loop.stop()
    GO_ON.set()
    outcome = await running
    assert (outcome.reason, outcome.rounds) == ("stopped", 2)
    assert bench.rounds() == [0, 1, 2]
    assert [saved.round for saved in bench.saved] == [2]
    assert torch.equal(outcome.x, bench.saved[0].tensors["x"])


async def test_a_run_that_is_cancelled_saves_no_round_that_it_has_not_told(bench: Bench) -> None:
    """A slot is in the turn of round 2, whose line is never written: no checkpoint may say that the round is done."""
    loop = bench.loop(session_of(4, waits=True, rounds=9))
    running = asyncio.create_task(loop.run())
    await until(BEGUN.is_set)
    await until(lambda: 1 in bench.rounds(events.Evaluated))
    running.cancel()
    for _ in range(100):  # the loop's steps until it waits for the server
        await asyncio.sleep(0)
    GO_ON.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert bench.rounds() == [0, 1]
    assert bench.saved == []


async def test_a_pause_holds_the_next_round(bench: Bench) -> None:
    """It comes during a slot's turn: that ends, its round is told, and nothing is handed out until it is over."""
    running = asyncio.create_task(bench.loop(session_of(4, waits=True)).run())
    await until(BEGUN.is_set)
    bench.cluster.pause(True)
    GO_ON.set()
    await until(lambda: 3 in bench.rounds(events.RoundStarted))
    assert bench.cluster.held("local") == 0
    assert bench.rounds() == [0, 1, 2]
    bench.cluster.pause(False)
    assert (await running).rounds == 3


async def test_runs_side_by_side_do_not_wait_for_each_other_s_turns(bench: Bench) -> None:
    """One run's turn takes its slot; another run goes on to its end on the other one."""
    slow = asyncio.create_task(bench.loop(session_of(4, waits=True), "slow").run())
    await until(BEGUN.is_set)
    fast = await bench.loop(session_of(4, rounds=5), "fast").run()
    assert (fast.reason, fast.rounds) == ("finished", 5)
    assert not slow.done()
    GO_ON.set()
    assert (await slow).rounds == 3
