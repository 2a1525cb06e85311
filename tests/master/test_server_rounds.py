"""Rounds that a slot leads by itself: the same bytes and the same events, up to whatever the event loop has to do."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from algorithms.fedavg import FedAvg
from fl_core.client import Client
from fl_core.execution.cohort import CohortResult, CohortWork
from fl_core.execution.pool import DevicePool, parse_devices
from fl_core.reference import run_reference
from fl_core.replies import Replies
from fl_core.server import Round, Server
from fl_core.session import Session, open_session
from master import events, server_rounds
from master.checkpoint import Checkpoint
from master.cluster import Cluster, Lane, OpenRun
from master.local_executor import LocalExecutor
from master.round_loop import RoundLoop
from tests.conftest import small_experiment

pytestmark = pytest.mark.timeout(60)


class CountingCluster(Cluster):
    """Notes which rounds it is asked to run: the others are led."""

    def __init__(self, emit: Callable[[events.Event], None]) -> None:
        super().__init__(emit)
        self.asked: list[int] = []

    def start_round(self, name: str, round: Round, *arguments: Any) -> None:
        self.asked.append(round.number)
        super().start_round(name, round, *arguments)


class Bench:
    """A cluster with a pool of two slots, and what loops on it tell and save."""

    def __init__(self) -> None:
        self.told: list[events.Event] = []
        self.saved: list[Checkpoint] = []
        self.cluster = CountingCluster(self.told.append)
        self.pool = DevicePool(parse_devices("cpu"), 2)
        self.cluster.join(LocalExecutor(self.cluster, self.pool))

    def loop(self, session: Session) -> RoundLoop:
        self.cluster.open_run("r", session)
        return RoundLoop("r", session, self.cluster, self.saved.append)

    def of(self, kind: type[events.Event]) -> list[Any]:
        return [event for event in self.told if isinstance(event, kind)]


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """With a local pool whose slots lead for as long as they may."""
    monkeypatch.setattr(server_rounds, "_LED_S", math.inf)
    made = Bench()
    yield made
    await made.cluster.close()
    await asyncio.to_thread(made.pool.close)


def session_of(algorithm: FedAvg | None = None, **tables: Any) -> Session:
    """Rounds of one task of four clients, evaluated at the start and at the end."""
    given = {
        "execution": {"cohort": 4, "fuse": "never"},
        "evaluate": {"metrics": ["f"], "every": 100},
        "checkpoint": {"every": 100},
        "rounds": 9,
        **tables,
    }
    session = open_session(small_experiment(**given))
    return session if algorithm is None else replace(session, algorithm=algorithm)


async def test_rounds_that_are_led_give_the_bytes_of_the_reference(bench: Bench) -> None:
    """And every event of every round, once and in order, with totals that grow by the round."""
    session = session_of()
    outcome = await bench.loop(session).run()
    assert bench.cluster.asked == [1]
    assert (outcome.reason, outcome.rounds) == ("finished", 9)
    assert torch.equal(outcome.x, [server.x.clone() for server, _ in run_reference(session)][-1])
    kinds = (events.RoundStarted, events.TaskFinished, events.RoundFinished)
    told = [(event.round, type(event)) for event in bench.told if isinstance(event, kinds)]
    assert told[0] == (0, events.RoundFinished)
    assert told[1:] == [(number, kind) for number in range(1, 10) for kind in kinds]
    finished = bench.of(events.RoundFinished)[1:]
    assert [event.metrics["bits_up"] for event in finished] == [
        number * finished[0].metrics["bits_up"] for number in range(1, 10)
    ]
    assert all(a.time_s <= b.time_s for a, b in itertools.pairwise(finished))
    assert sum(event.metrics["round_s"] for event in finished) == pytest.approx(finished[-1].metrics["elapsed_s"])
    assert [event.clients for event in bench.of(events.RoundStarted)] == [4] * 9
    assert all(event.executor == "local" and event.seconds_s > 0 for event in bench.of(events.TaskFinished))


@pytest.mark.parametrize(
    ("tables", "asked"),
    [
        ({"evaluate": {"metrics": ["f"], "every": 3}}, [1, 4, 7]),
        ({"checkpoint": {"every": 4}}, [1, 5, 9]),
        ({"execution": {"cohort": 2, "fuse": "never"}}, [*range(1, 10)]),
        ({"execution": {"cohort": 4, "fuse": "never", "intra_op_threads": 2}}, [*range(1, 10)]),
    ],
    ids=["an evaluation", "a checkpoint", "tasks of more slots", "more threads an operation"],
)
async def test_what_ends_a_lead(bench: Bench, tables: dict[str, Any], asked: list[int]) -> None:
    """A round after which the event loop has something to do, or that no slot may run alone; the bytes are one."""
    session = session_of(**tables)
    outcome = await bench.loop(session).run()
    assert bench.cluster.asked == asked
    assert torch.equal(outcome.x, [server.x.clone() for server, _ in run_reference(session)][-1])
    due = [number for number in range(10) if number in (0, 9) or number % session.experiment.evaluate.every == 0]
    assert sorted(event.round for event in bench.of(events.Evaluated)) == due


@dataclass(frozen=True)
class Holding(FedAvg):
    """FedAvg whose clients wait in round 3."""

    def local_gradient(self, client: Client, x: Tensor, s: Any) -> Tensor:
        if client.round == 3:
            BEGUN.set()
            GO_ON.wait(30)
        return super().local_gradient(client, x, s)


async def test_a_stop_does_not_wait_for_a_client_of_a_lead(bench: Bench, until_round_3: Callable[[], Any]) -> None:
    """As with any round: it is given up at once, and those before it are told and saved."""
    loop = bench.loop(session_of(Holding()))
    running = asyncio.create_task(loop.run())
    await until_round_3()
    loop.stop()
    outcome = await running
    assert not GO_ON.is_set()
    GO_ON.set()
    assert (outcome.reason, outcome.rounds, bench.cluster.asked) == ("stopped", 2, [1])
    assert [event.round for event in bench.of(events.RoundFinished)] == [0, 1, 2]
    assert [saved.round for saved in bench.saved] == [2]
    assert torch.equal(outcome.x, bench.saved[0].tensors["x"])


async def test_long_rounds_are_not_led(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop, and whoever watches, hears of each: a round is led only after one whose tasks were short."""

    class LongTasks(LocalExecutor):
        """Says of every task that it took an hour."""

        def assign(self, run: OpenRun, work: CohortWork, attempt: int) -> None:
            conclude = run.conclude

            def told_so(index: int, result: CohortResult, lane: Lane) -> None:
                assert conclude is not None
                conclude(index, replace(result, metrics={**result.metrics, "seconds_s": [3600.0] * 4}), lane)

            run.conclude = told_so
            super().assign(run, work, attempt)

    monkeypatch.setattr(server_rounds, "_LED_S", 3600.0)
    bench.cluster.lose(bench.cluster.executors["local"])
    bench.cluster.join(LongTasks(bench.cluster, bench.pool))
    await bench.loop(session_of()).run()
    assert bench.cluster.asked == [*range(1, 10)]


async def test_a_lead_lasts_a_moment(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop hears of the rounds after a while, however many are left."""
    monkeypatch.setattr(server_rounds, "_LED_S", 0.0)
    await bench.loop(session_of()).run()
    assert bench.cluster.asked == [*range(1, 10)]


BEGUN, GO_ON = threading.Event(), threading.Event()


@dataclass(frozen=True)
class Waiting(FedAvg):
    """FedAvg whose server waits in round 3."""

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        if server.round == 3:
            BEGUN.set()
            GO_ON.wait(30)
        return super().server_gradient(server, replies)


@pytest.fixture
def until_round_3() -> Callable[[], Any]:
    """Waits until the server is in round 3."""
    BEGUN.clear()
    GO_ON.clear()

    async def wait() -> None:
        while not BEGUN.is_set():
            await asyncio.sleep(0.001)

    return wait


async def test_a_stop_ends_a_lead(bench: Bench, until_round_3: Callable[[], Any]) -> None:
    """After the round under way; all that are done are told, and the last one is saved."""
    loop = bench.loop(session_of(Waiting()))
    running = asyncio.create_task(loop.run())
    await until_round_3()
    loop.stop()
    GO_ON.set()
    outcome = await running
    assert (outcome.reason, outcome.rounds, bench.cluster.asked) == ("stopped", 3, [1])
    assert [event.round for event in bench.of(events.RoundFinished)] == [0, 1, 2, 3]
    assert [saved.round for saved in bench.saved] == [3]
    assert torch.equal(outcome.x, bench.saved[0].tensors["x"])


async def test_a_pause_ends_a_lead(bench: Bench, until_round_3: Callable[[], Any]) -> None:
    """The next round waits in the queue until the pause is over."""
    running = asyncio.create_task(bench.loop(session_of(Waiting())).run())
    await until_round_3()
    bench.cluster.pause(True)
    GO_ON.set()
    while len(bench.cluster.asked) < 2:
        await asyncio.sleep(0.001)
    assert bench.cluster.held("local") == 0
    assert bench.cluster.asked == [1, 4]
    bench.cluster.pause(False)
    assert (await running).rounds == 9


@dataclass(frozen=True)
class Failing(FedAvg):
    """FedAvg that fails in round 3."""

    where: str = ""

    def local_gradient(self, client: Client, x: Tensor, s: Any) -> Tensor:
        if (self.where, client.round) == ("client", 3):
            raise ZeroDivisionError
        return super().local_gradient(client, x, s)

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        if (self.where, server.round) == ("server", 3):
            raise ZeroDivisionError
        if (self.where, server.round) == ("NaN", 3):
            return super().server_gradient(server, replies) * math.nan
        return super().server_gradient(server, replies)

    def participants(self, server: Server, sampled: tuple[int, ...]) -> tuple[int, ...]:
        if (self.where, server.round) == ("next", 3):
            raise ZeroDivisionError
        return sampled


@pytest.mark.parametrize(
    ("where", "rounds", "asked"),
    [("client", 2, [1, 3]), ("server", 2, [1]), ("next", 2, [1]), ("NaN", 3, [1])],
)
async def test_what_fails_in_a_lead_fails_the_run(bench: Bench, where: str, rounds: int, asked: list[int]) -> None:
    """As it would have failed round by round: what was done before is told and saved."""
    outcome = await bench.loop(session_of(Failing(where=where))).run()
    assert (outcome.reason, outcome.rounds) == ("failed", rounds)
    assert ("ZeroDivisionError" if where != "NaN" else "is NaN") in outcome.text
    assert ("(client " in outcome.text) is (where == "client")
    assert bench.cluster.asked == asked
    assert [event.round for event in bench.of(events.RoundFinished)] == [*range(rounds + 1)]
    assert [saved.round for saved in bench.saved] == [rounds]


@dataclass(frozen=True)
class LateReader(FedAvg):
    """FedAvg that reads the replies one by one from round 3 on."""

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        if server.round >= 3:
            return torch.stack([reply.delta for reply in replies]).mean(0)
        return super().server_gradient(server, replies)


async def test_a_lead_ends_where_rows_are_needed(bench: Bench) -> None:
    """The sums of the slot's own task are not enough: the round is run again with all rows, once, as is said."""
    session = session_of(LateReader())
    outcome = await bench.loop(session).run()
    assert bench.cluster.asked == [1, 3, 3]
    assert [event.text.partition(",")[0] for event in bench.of(events.Noted)] == ["round 3 is run again"]
    assert torch.equal(outcome.x, [server.x.clone() for server, _ in run_reference(session)][-1])


async def test_clients_left_out_of_a_led_round_are_named(bench: Bench) -> None:
    """With the round they are left out of."""
    session = session_of(Failing(where="client"), on_error="skip")
    outcome = await bench.loop(session).run()
    assert (outcome.reason, outcome.rounds, bench.cluster.asked) == ("finished", 9, [1])
    assert [event.text.partition(" is")[0] for event in bench.of(events.Warned)] == [
        f"round 3: client {client}" for client in session.server().begin_round(3).participants
    ]
    assert [event.metrics["skipped"] for event in bench.of(events.RoundFinished)[1:]] == [0, 0, 4, *[0] * 6]
