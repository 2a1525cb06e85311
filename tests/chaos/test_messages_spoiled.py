"""A message is lost, repeated, late or cut on its way, at every type: the run ends with the same bytes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest

from tests.chaos.conftest import Undisturbed
from tests.chaos.faulty_proxy import Deed, FaultyProxy, ToMessage
from tests.conftest import Process
from tests.system.conftest import MasterHere

pytestmark = [pytest.mark.net, pytest.mark.chaos, pytest.mark.timeout(120)]

HANDSHAKE = ("Hello", "Challenge", "Proof", "Welcome")
WORK = ("Setup", "Ready", "Broadcast", "Task", "Result", "Ping", "Pong")
DEEDS: tuple[Deed, ...] = ("lost", "repeated", "late", "cut")
QUICK = {("Task", "lost"), ("Result", "repeated"), ("Broadcast", "cut"), ("Result", "late"), ("Proof", "repeated")}
CASES = [
    pytest.param(kind, deed, id=f"{kind}-{deed}", marks=() if (kind, deed) in QUICK else pytest.mark.soak)
    for kind in (*HANDSHAKE, *WORK)
    for deed in DEEDS
]


@pytest.mark.parametrize(("kind", "deed"), CASES)
async def test_a_spoiled_message_costs_time_and_nothing_else(
    kind: str,
    deed: Deed,
    workers: list[Process],
    undisturbed: Undisturbed,
    master: Callable[[], MasterHere],
) -> None:
    """One of two workers sits behind the fault; every task is counted once, and nobody waits for more than 10 s."""
    fault = ToMessage(kind, deed, nth=1 if kind in (*HANDSHAKE, "Setup", "Ready") else 3)
    proxy = FaultyProxy(workers[0].port, fault)
    try:
        run = master().start("", workers=(proxy.address, workers[1].address))
        assert await run.ended() == 0
    finally:
        proxy.close()
    assert fault.done.is_set()
    undisturbed.must_be(run.run)
    times = [event["time_s"] for event in run.run.events("TaskFinished")]
    assert max(b - a for a, b in itertools.pairwise(times)) < 10
    if deed in ("repeated", "cut"):
        assert proxy.connections >= 2, "the worker was not dialled again"


async def test_bye_or_forget_lost_leaves_the_worker_free(
    workers: list[Process], undisturbed: Undisturbed, master: Callable[[], MasterHere]
) -> None:
    """The last words of a master may be lost: the next one is served all the same."""
    for kind in ("Forget", "Bye"):
        proxy = FaultyProxy(workers[0].port, ToMessage(kind, "lost"))
        run = master().start("", workers=(proxy.address,), devices="cpu")
        assert await run.ended() == 0
        proxy.close()
        undisturbed.must_be(run.run)
        async with asyncio.timeout(10):
            after = master().start("", "rounds=1", workers=(workers[0].address,))
            assert await after.ended() == 0
