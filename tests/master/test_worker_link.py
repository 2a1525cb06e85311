"""The master's side of a worker, against scripted workers on real ports: what it sends, takes, refuses and survives."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import torch

from fl_core.errors import InputError, UserCodeError
from fl_core.execution import wire
from fl_core.execution.broadcasts import ReceivedBroadcasts
from fl_core.execution.cohort import METRICS, CohortResult, CohortRunner, CohortWork
from fl_core.server import Server
from fl_core.session import Session, open_session
from master import cluster, events
from master.cluster import Cluster
from master.dispatch_vocabulary import TaskId
from master.worker_link import WorkerLink, parse_address
from protocol import messages
from protocol.fields import Report
from protocol.settings import LinkSettings
from tests.conftest import small_experiment

pytestmark = [pytest.mark.net, pytest.mark.timeout(60)]


class Bench:
    """A cluster, the events it emits, and links to workers."""

    def __init__(self) -> None:
        self.told: list[events.Event] = []
        self.cluster = Cluster(self.told.append)
        self.session: Session = open_session(small_experiment())
        cpu = torch.device("cpu")
        self._runner = CohortRunner(self.session.problem, self.session.algorithm, self.session.work, cpu)
        self._tasks: list[asyncio.Task[None]] = []
        self._servers: dict[str, Server] = {}

    def dial(self, address: str) -> WorkerLink:
        link = WorkerLink(self.cluster, address, None, LinkSettings())
        self._tasks.append(asyncio.create_task(link.run()))
        return link

    def open(self, run: str = "r") -> None:
        self.cluster.open_run(run, self.session)
        self._servers[run] = self.session.server()

    def begin(self, run: str = "r", number: int = 1) -> asyncio.Task[list[CohortResult]]:
        """A round of four tasks, under way."""
        round = self._servers[run].begin_round(number)
        works = [CohortWork(number, k, cohort, {}, {}) for k, cohort in enumerate(round.cohorts)]
        return asyncio.create_task(self.cluster.run_round(run, round, works))

    async def until(self, kind: type[events.Event]) -> Any:
        """The first event of that kind; they come from tasks of this loop."""
        while not (found := [event for event in self.told if isinstance(event, kind)]):
            await asyncio.sleep(0.001)
        return found[0]

    def of(self, *kinds: type[events.Event]) -> list[Any]:
        return [event for event in self.told if isinstance(event, kinds)]

    async def answer(self, end: Any, broadcast: Any, task: messages.Task) -> None:
        """Do a task as a worker does, from what came over the wire."""
        work = wire.work_of(task, [])
        done = self._runner.run(broadcast, work)
        await end.say(*wire.result_message(task.run, work, task.attempt, done))

    async def serve(self, end: Any) -> None:
        """A right worker, to its link's end."""
        broadcast, received = None, ReceivedBroadcasts()
        while True:
            message, buffers = await end.link.receive()
            end.heard.append(message)
            if isinstance(message, messages.Setup):
                await end.say(messages.Ready(message.run, True))
            elif isinstance(message, messages.Broadcast):
                broadcast = received.unpack(message, buffers)
            elif isinstance(message, messages.Task):
                await self.answer(end, broadcast, message)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.cluster.close()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """Nobody is dialled yet, and no run is open."""
    made = Bench()
    yield made
    await made.close()


async def test_a_round_s_model_goes_to_a_worker_once(bench: Bench, scripted_worker: Any) -> None:
    """Setup once a run, Broadcast once a round, then its tasks; and no data to a worker that has it."""
    ends: list[Any] = []

    async def behaviour(end: Any) -> None:
        ends.append(end)
        await bench.serve(end)

    async with scripted_worker(behaviour) as address:
        bench.open()
        bench.dial(address)
        first, second = await bench.begin(number=1), await bench.begin(number=2)
    heard = [type(message).__name__ for message in ends[0].heard]
    assert heard == ["Setup", "Broadcast", *["Task"] * 4, "Broadcast", *["Task"] * 4]
    assert [message.round for message in ends[0].heard[1:]] == [1] * 5 + [2] * 5
    assert [result.clients for result in (*first, *second)] == [(0,), (1,), (2,), (3,)] * 2


async def test_a_worker_without_the_data_is_sent_each_shard_once(bench: Bench, scripted_worker: Any) -> None:
    """Before the first task of a client its data comes, and never again; the bytes are those of the shard."""
    ends: list[Any] = []

    async def behaviour(end: Any) -> None:
        ends.append(end)
        await end.hear(messages.Setup)
        await end.say(messages.Ready("r", False))
        received = ReceivedBroadcasts()
        for _ in range(2):
            message, buffers = await end.link.receive()
            broadcast = received.unpack(message, buffers)
            for _ in range(4):
                task = await heard_task(end)
                await bench.answer(end, broadcast, task)

    async def heard_task(end: Any) -> messages.Task:
        while True:
            message, buffers = await end.link.receive()
            end.heard.append(message)
            end.payloads.append([buffer.tobytes() for buffer in buffers])
            if isinstance(message, messages.Task):
                return message

    async with scripted_worker(behaviour) as address:
        bench.open()
        bench.dial(address)
        await bench.begin(number=1)
        await bench.begin(number=2)
    order = [(type(m).__name__, getattr(m, "client", None)) for m in ends[0].heard[1:]]
    assert [entry for entry in order if entry[0] == "Shard"] == [("Shard", i) for i in range(4)]
    seen: set[int] = set()
    for message, payload in zip(ends[0].heard[1:], ends[0].payloads[1:], strict=True):
        if isinstance(message, messages.Shard):
            seen.add(message.client)
            _, buffers = wire.shard_message("r", message.client, bench.session.problem.shard(message.client))
            assert payload == [buffer.tobytes() for buffer in buffers]
        else:
            assert set(message.clients) <= seen


@pytest.mark.parametrize(("clients", "expected"), [((3,), "other clients"), ((0,), "the fields nothing")])
async def test_a_result_for_other_clients_or_fields_ends_the_link(
    bench: Bench, scripted_worker: Any, clients: tuple[int, ...], expected: str
) -> None:
    """Nothing of it is used; the worker is lost with that reason, and its next incarnation does the work."""
    ends: list[Any] = []

    async def behaviour(end: Any) -> None:
        ends.append(end)
        if len(ends) > 1:
            await bench.serve(end)
            return
        await end.hear(messages.Setup)
        await end.say(messages.Ready("r", True))
        await end.hear(messages.Broadcast)
        task = await end.hear(messages.Task)
        forged = CohortResult(clients, {}, {}, {}, {name: [1.0] for name in METRICS})
        await end.say(*wire.result_message("r", wire.work_of(task, []), task.attempt, forged))
        await end.listen_to_the_end()

    async with scripted_worker(behaviour) as address:
        bench.open()
        bench.dial(address)
        results = await bench.begin()
    assert [result.clients for result in results] == [(0,), (1,), (2,), (3,)]
    lost = bench.of(events.WorkerLost)[0]
    assert expected in lost.reason
    came = [type(event) for event in bench.of(events.WorkerJoined, events.WorkerReturned)]
    assert came[:2] == [events.WorkerJoined, events.WorkerReturned]


async def test_a_result_of_a_task_that_was_given_up_is_dropped(bench: Bench, scripted_worker: Any) -> None:
    """A round that is run again has other tasks: a late answer to one of the first is no fault of the worker's."""
    ends: list[Any] = []

    async def behaviour(end: Any) -> None:
        ends.append(end)
        await end.hear(messages.Setup)
        await end.say(messages.Ready("r", True))
        message, buffers = await end.link.receive()
        broadcast = wire.broadcast_of(message, buffers)
        task = await end.hear(messages.Task)
        await bench.answer(end, broadcast, msgspec.structs.replace(task, task=99))
        await bench.answer(end, broadcast, task)
        for _ in range(3):
            await bench.answer(end, broadcast, await end.hear(messages.Task))
        await end.listen_to_the_end()

    async with scripted_worker(behaviour) as address:
        bench.open()
        bench.dial(address)
        assert [result.clients for result in await bench.begin()] == [(0,), (1,), (2,), (3,)]
    assert len(ends) == 1


async def test_a_run_that_is_over_before_the_worker_is_ready_holds_nobody_up(
    bench: Bench, scripted_worker: Any
) -> None:
    """The worker still loads data for the run that failed when the next one begins: its tasks come through."""

    loading = asyncio.Event()

    async def behaviour(end: Any) -> None:
        assert (await end.hear(messages.Setup)).run == "failing"
        loading.set()
        while not isinstance((await end.link.receive())[0], messages.Forget):
            pass  # Cancel, for each task that this worker was to get
        await end.say(messages.Ready("failing", True))
        await bench.serve(end)

    async with scripted_worker(behaviour) as address:
        bench.dial(address)
        await bench.until(events.WorkerJoined)
        bench.open("failing")
        given_up = bench.begin("failing")
        await loading.wait()  # so the first task waits at the link for the worker to be ready
        bench.cluster.close_run("failing")
        assert await given_up is None
        bench.open("next")
        assert len(await bench.begin("next")) == 4


def test_only_a_small_broadcast_is_packed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small one is packed once a round, where the round begins; a large one is left to a thread."""
    session = open_session(small_experiment())
    run, server = cluster.OpenRun("r", session), session.server()
    run.round = server.begin_round(1)
    packed = run.small_broadcast()
    assert packed is not None
    assert packed[0].round == 1
    assert run.small_broadcast() is packed
    run.round = server.begin_round(2)
    monkeypatch.setattr(cluster, "SMALL_BROADCAST_BYTES", session.problem.x0.nbytes - 1)
    assert run.small_broadcast() is None


async def test_after_a_forget_nothing_of_the_run_follows(
    bench: Bench, scripted_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends while its model is being packed for this worker: sent later, it would end the link."""
    heard: list[tuple[str, str]] = []
    packing, go_on = threading.Event(), threading.Event()
    pack = wire.broadcast_message

    def slow(run: str, broadcast: Any) -> Any:
        if run == "failing":
            packing.set()
            go_on.wait(30)
        return pack(run, broadcast)

    async def behaviour(end: Any) -> None:
        try:
            await bench.serve(end)
        finally:
            heard.extend((type(message).__name__, message.run) for message in end.heard)

    monkeypatch.setattr(wire, "broadcast_message", slow)
    monkeypatch.setattr(cluster, "SMALL_BROADCAST_BYTES", 0)  # as of a large model: in a thread
    async with scripted_worker(behaviour) as address:
        bench.open("failing")
        bench.dial(address)
        given_up = bench.begin("failing")
        while not packing.is_set():
            await asyncio.sleep(0)
        bench.cluster.close_run("failing")
        go_on.set()
        assert await given_up is None
        bench.open("next")
        assert len(await bench.begin("next")) == 4
    assert [kind for kind, run in heard if run == "failing" and kind != "Cancel"] == ["Setup", "Forget"]
    assert [kind for kind, run in heard if run == "next"] == ["Setup", "Broadcast", *["Task"] * 4]


async def test_a_worker_s_error_names_file_line_client_and_worker(bench: Bench, scripted_worker: Any) -> None:
    """What the worker reports is what the run fails with."""

    async def behaviour(end: Any) -> None:
        await end.hear(messages.Setup)
        await end.say(messages.Ready("r", True))
        await end.hear(messages.Broadcast)
        task = await end.hear(messages.Task)
        report = Report("user", "ZeroDivisionError: division by zero", "hers.py", 12, 0, "Traceback ...")
        await end.say(messages.Failure("r", 1, task.task, task.attempt, report))
        await bench.serve(end)

    async with scripted_worker(behaviour) as address:
        bench.open()
        bench.dial(address)
        with pytest.raises(UserCodeError) as caught:
            await bench.begin()
    assert str(caught.value) == f"hers.py:12: ZeroDivisionError: division by zero (client 0, worker {address})"


async def test_a_task_that_is_handed_back_is_handed_out_again(bench: Bench, scripted_worker: Any) -> None:
    """With the next attempt's number."""
    attempts: list[tuple[int, int]] = []

    async def behaviour(end: Any) -> None:
        await end.hear(messages.Setup)
        await end.say(messages.Ready("r", True))
        message, buffers = await end.link.receive()
        broadcast = wire.broadcast_of(message, buffers)
        while len(attempts) < 5:
            task = await end.hear(messages.Task)
            attempts.append((task.task, task.attempt))
            if attempts == [(0, 1)]:
                await end.say(messages.Failure("r", 1, 0, 1, Report("returned", "not run")))
            else:
                await bench.answer(end, broadcast, task)

    async with scripted_worker(behaviour) as address:
        bench.open()
        bench.dial(address)
        assert len(await bench.begin()) == 4
    assert sorted(attempts) == [(0, 1), (0, 2), (1, 1), (2, 1), (3, 1)]


async def test_a_worker_that_cannot_take_part_says_why_and_is_not_dialled_without_pause(
    bench: Bench, scripted_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reason is told once; the pauses grow until it serves, and begin anew when it is lost after that."""
    pauses: list[float] = []
    dialled: list[Any] = []

    def noted(low: float, high: float) -> float:
        pauses.append(high)
        return low

    async def behaviour(end: Any) -> None:
        dialled.append(end)
        await end.hear(messages.Setup)
        if len(dialled) <= 4:
            await end.say(messages.Ready("r", False, Report("refused", "this worker runs no user code")))
            await end.hear(messages.Forget)  # never: the link ends
        await end.say(messages.Ready("r", True))
        if len(dialled) == 5:
            await end.link.close("restarting")
        else:
            await bench.serve(end)

    monkeypatch.setattr("random.uniform", noted)
    async with scripted_worker(behaviour) as address:
        bench.open()
        bench.dial(address)
        await bench.begin()
        assert pauses == [0.1, 0.2, 0.4, 0.8, 0.1]
    (warning,) = bench.of(events.Warned)
    assert warning.text == f"worker {address}: it cannot take part: this worker runs no user code"
    lost = bench.of(events.WorkerLost)[0]
    assert "restarting" in lost.reason
    came = [type(event) for event in bench.of(events.WorkerJoined, events.WorkerReturned)]
    assert came[:2] == [events.WorkerJoined, events.WorkerReturned]


async def test_an_address_where_nobody_listens_is_tried_until_someone_does(
    bench: Bench, scripted_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker may be started after the master; the warning comes once."""
    monkeypatch.setattr("random.uniform", lambda low, high: low)
    async with scripted_worker(bench.serve) as address:
        pass  # the port is free again, and nobody is there
    bench.open()
    bench.dial(address)
    round = bench.begin()
    warning = await bench.until(events.Warned)
    assert address in warning.text
    assert "cannot be reached" in warning.text

    async with scripted_worker(bench.serve, port=int(address.rpartition(":")[2])):
        assert len(await round) == 4
    assert len(bench.of(events.Warned)) == 1


async def test_a_message_to_a_link_that_is_over_is_nobody_s_error(bench: Bench, scripted_worker: Any) -> None:
    """Between a worker's end and the master's notice of it, cancelling and preparing go on without it."""
    async with scripted_worker(bench.serve) as address:
        link = bench.dial(address)
        await bench.until(events.WorkerJoined)
        executor = link.executor
        await executor.link.close("cut")
        executor.cancel(TaskId("r", 1, 0), 1)
        bench.open()
        executor.forget("r")


async def test_a_worker_elsewhere_needs_a_secret(bench: Bench) -> None:
    """An address beyond loopback without a secret is the user's mistake, told at once instead of tried for ever."""
    link = WorkerLink(bench.cluster, "192.0.2.1:7000", None, LinkSettings())
    with pytest.raises(InputError, match=r"192\.0\.2\.1.*--secret-file"):
        await link.run()


@pytest.mark.parametrize(
    ("address", "parts"),
    [("gpu1:7000", ("gpu1", 7000)), ("[::1]:7000", ("::1", 7000)), ("10.0.0.1:1", ("10.0.0.1", 1))],
)
def test_an_address_is_host_and_port(address: str, parts: tuple[str, int]) -> None:
    """Names, IPv4, and IPv6 in brackets."""
    assert parse_address(address) == parts


@pytest.mark.parametrize("address", ["gpu1", ":7000", "gpu1:", "gpu1:seven", "gpu1:0", "gpu1:65536", ""])
def test_what_is_no_address_is_said_to_be_none(address: str) -> None:
    """With an example of a right one."""
    with pytest.raises(InputError, match="write host:port, as in gpu1:7000"):
        parse_address(address)


async def test_a_worker_under_two_names_is_used_once(bench: Bench, scripted_worker: Any) -> None:
    """The second address leads to the same process: a warning names both, and no second executor joins."""
    async with scripted_worker(bench.serve) as address:
        other = f"localhost:{address.rpartition(':')[2]}"
        bench.open()
        bench.dial(address)
        await bench.until(events.WorkerJoined)
        bench.dial(other)
        warning = await bench.until(events.Warned)
        assert warning.text == f"worker {other} is {address} under another name: it is used once"
        assert len(await bench.begin()) == 4
        assert len(bench.of(events.WorkerJoined)) == 1


async def test_nothing_of_a_lost_worker_waits_for_the_garbage_collector(bench: Bench, scripted_worker: Any) -> None:
    """Its link, with what was on its way, is freed as it is lost: a quiet process may not collect for hours."""
    dialled: list[Any] = []

    async def behaviour(end: Any) -> None:
        dialled.append(end)
        if len(dialled) > 1:
            await bench.serve(end)
            return
        await end.hear(messages.Setup)
        await end.say(messages.Ready("r", True))
        await end.hear(messages.Broadcast)
        await end.hear(messages.Task)
        await first_is_seen.wait()
        end.link.refuse("killed")

    first_is_seen = asyncio.Event()
    gc.disable()
    try:
        async with scripted_worker(behaviour) as address:
            bench.open()
            own = bench.dial(address)
            round = bench.begin()
            await bench.until(events.WorkerJoined)
            assert own.executor is not None
            seen = weakref.ref(own.executor), weakref.ref(own.executor.link), weakref.ref(own.executor.link.connection)
            first_is_seen.set()
            await bench.until(events.WorkerReturned)
            assert len(await round) == 4
            assert [ref() for ref in seen] == [None] * 3
    finally:
        gc.enable()
