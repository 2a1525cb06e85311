"""What a worker does with a master's messages, on a real link: answers to each task exactly once, whatever happens."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from fl_core.errors import InputError
from protocol import messages
from protocol.errors import ConnectionLostError
from worker.runs import Preparation

pytestmark = pytest.mark.net


def key(message: messages.Message) -> tuple[str, int, int, int]:
    """Kind, round, task and attempt of an answer."""
    assert isinstance(message, messages.Result | messages.Failure)
    return type(message).__name__, message.round, message.task, message.attempt


async def test_a_task_is_answered_with_what_a_site_computes(serve: Any) -> None:
    """Setup, Broadcast, Task: the Result carries the bytes that the same site gives without a network."""
    async with serve() as master:
        assert await master.setup() == messages.Ready("r", True)
        await master.broadcast(1)
        await master.task(1, 2)
        assert key(await master.receive()) == ("Result", 1, 2, 1)
        assert master.payload == master.expected(1, 2)
        assert master.expected(1, 2) != master.expected(1, 3)


async def test_a_task_that_outlives_its_round_does_not_answer_for_the_next(serve: Any) -> None:
    """Task 0, attempt 1 of round 1 is given up but still runs when task 0, attempt 1 of round 2 comes."""
    async with serve(slots=2) as master:
        await master.setup()
        master.gates[1] = threading.Event()
        await master.broadcast(1)
        await master.task(1, 0)
        await master.link.send(messages.Cancel("r", 1, [(0, 1)]))
        master.gates[2] = threading.Event()
        await master.broadcast(2)
        await master.task(2, 0)
        master.gates[1].set()
        first = await master.receive()
        assert key(first) == ("Failure", 1, 0, 1)
        assert first.report.kind == "returned"
        master.gates[2].set()
        assert key(await master.receive()) == ("Result", 2, 0, 1)
        assert master.payload == master.expected(2, 0)


async def test_a_cancel_that_overtakes_its_task_counts(serve: Any) -> None:
    """The task is handed back when it comes, and its client never runs; the same task of another round does."""
    async with serve() as master:
        await master.setup()
        await master.broadcast(1)
        await master.link.send(messages.Cancel("r", 1, [(0, 1)]))
        await master.task(1, 0)
        assert key(await master.receive()) == ("Failure", 1, 0, 1)
        assert master.ran == []
        await master.broadcast(2)
        await master.task(2, 0)
        assert key(await master.receive()) == ("Result", 2, 0, 1)


async def test_a_late_cancel_does_not_reach_into_the_next_round(serve: Any) -> None:
    """A Cancel of a task that was answered already is without effect, now and later."""
    async with serve() as master:
        await master.setup()
        await master.broadcast(1)
        await master.task(1, 0)
        assert key(await master.receive()) == ("Result", 1, 0, 1)
        await master.link.send(messages.Cancel("r", 1, [(0, 1)]))
        await master.broadcast(2)
        await master.task(2, 0)
        assert key(await master.receive()) == ("Result", 2, 0, 1)


async def test_a_forgotten_run_answers_for_all_it_held(serve: Any) -> None:
    """The master counts what a worker holds: tasks of a run that is over are handed back, running or not."""
    async with serve(slots=1) as master:
        await master.setup()
        master.gates[1] = threading.Event()
        await master.broadcast(1)
        for task in range(3):
            await master.task(1, task)
        while not master.begun:
            await asyncio.sleep(0)  # until the first one runs
        await master.link.send(messages.Forget("r"))
        waiting = {key(await master.receive()) for _ in range(2)}
        assert waiting == {("Failure", 1, 1, 1), ("Failure", 1, 2, 1)}
        master.gates[1].set()
        assert key(await master.receive()) == ("Failure", 1, 0, 1)
        assert {client for _, client in master.ran} == {0}


async def test_a_draining_worker_finishes_what_runs_and_hands_back_the_rest(serve: Any) -> None:
    """Nothing is lost and nothing new begins; then the link ends."""
    async with serve(slots=1) as master:
        await master.setup()
        master.gates[1] = threading.Event()
        await master.broadcast(1)
        await master.task(1, 0)
        await master.task(1, 1)
        (serving,) = master.serving
        while serving.busy < 2 or not master.begun:
            await asyncio.sleep(0)  # until both tasks have come, and one runs
        draining = asyncio.create_task(serving.drain())
        assert await master.receive() == messages.Drain()
        assert key(await master.receive()) == ("Failure", 1, 1, 1)
        await master.task(1, 2)  # sent before the master heard of it
        assert key(await master.receive()) == ("Failure", 1, 2, 1)
        master.gates[1].set()
        assert key(await master.receive()) == ("Result", 1, 0, 1)
        await draining
        with pytest.raises(ConnectionLostError):
            await master.receive()


async def test_a_client_s_error_is_answered_as_text(serve: Any) -> None:
    """With kind, client and traceback; the worker goes on."""
    async with serve() as master:
        await master.setup()
        master.gates[1] = None  # .wait of it raises
        await master.broadcast(1)
        await master.task(1, 3)
        failure = await master.receive()
        del master.gates[1]
        assert key(failure) == ("Failure", 1, 3, 1)
        assert (failure.report.kind, failure.report.client) == ("user", 3)
        assert "AttributeError" in failure.report.message
        assert "in local_gradient" in failure.report.traceback
        await master.task(1, 3, attempt=2)
        assert key(await master.receive()) == ("Result", 1, 3, 2)


@pytest.mark.parametrize("kind", [InputError, KeyError, SystemExit])
async def test_a_run_that_cannot_be_set_up_says_why(serve: Any, kind: type[BaseException]) -> None:
    """The Setup is answered with the error, be it ours or of her code, and the link lives on for other runs."""

    def refuse(setup: messages.Setup) -> Preparation:
        raise kind(f"no such thing as {setup.run}")

    async with serve(prepare=refuse) as master:
        for run in ("r", "s"):
            answer = await master.setup(run)
            assert not answer.has_data
            assert f"no such thing as {run}" in answer.error.message
            assert answer.error.kind == kind.__name__


async def test_data_that_was_sent_computes_like_data_that_was_loaded(serve: Any) -> None:
    """A worker without the data answers with the same bytes, from the one shard it needs."""
    async with serve(has_data=False) as master:
        assert await master.setup() == messages.Ready("r", False)
        await master.broadcast(1)
        await master.shard(2)
        await master.task(1, 2)
        assert key(await master.receive()) == ("Result", 1, 2, 1)
        assert master.payload == master.expected(1, 2)


OUT_OF_ORDER: dict[str, tuple[str, list[tuple[str, int]]]] = {
    "a Task before the Setup": ("has not been set up", [("task", 0)]),
    "a Broadcast before the Setup": ("has not been set up", [("broadcast", 0)]),
    "a Task before its Broadcast": ("without its Broadcast", [("setup", 0), ("task", 0)]),
    "a Task before its Shard": ("client 1 without", [*(("setup", 0), ("broadcast", 0), ("shard", 0)), ("task", 1)]),
    "a Task for nobody": ("client 4 of 4", [("setup", 0), ("broadcast", 0), ("task", 4)]),
    "a Shard of nobody": ("not asked for", [("setup", 0), ("shard", 4)]),
}


@pytest.mark.parametrize("case", OUT_OF_ORDER)
async def test_a_message_out_of_order_ends_the_link(serve: Any, case: str) -> None:
    """A master that breaks the order of a run is cut off with a reason: its state and ours have parted."""
    expected, steps = OUT_OF_ORDER[case]
    async with serve(has_data=False) as master:
        say = {"setup": lambda _: master.setup(), "broadcast": lambda _: master.broadcast(1), "shard": master.shard}
        say["task"] = lambda client: master.task(1, client)
        for step, client in steps:
            await say[step](client)
        with pytest.raises(ConnectionLostError, match=expected):
            await master.receive()


async def test_a_shard_that_was_not_asked_for_ends_the_link(serve: Any) -> None:
    """Data that a worker has loaded and checked is not replaced by what someone sends."""
    async with serve() as master:
        await master.setup()
        await master.shard(0)
        with pytest.raises(ConnectionLostError, match="not asked for"):
            await master.receive()


async def test_one_attempt_comes_once(serve: Any) -> None:
    """The same attempt a second time ends the link: one answer could stand for two tasks."""
    async with serve() as master:
        await master.setup()
        master.gates[1] = threading.Event()
        await master.broadcast(1)
        await master.task(1, 0)
        await master.task(1, 0)
        with pytest.raises(ConnectionLostError, match="came twice"):
            await master.receive()
