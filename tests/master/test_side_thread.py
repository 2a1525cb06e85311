"""The thread beside the loop: in order, with what was raised, and to the end of what was called."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
import torch

from master.side_thread import SideThread


@pytest.fixture
def side() -> Iterator[SideThread]:
    """One, closed afterwards."""
    made = SideThread("beside")
    yield made
    made.close()


async def test_calls_run_in_their_order_in_one_thread(side: SideThread) -> None:
    """Each future gets its own result, and torch computes with one thread there."""
    ran: list[tuple[int, int]] = []

    def note(number: int) -> int:
        ran.append((number, threading.get_ident()))
        return torch.get_num_threads() * number

    found = await asyncio.gather(*[side.call(note, number) for number in range(50)])
    assert found == list(range(50))
    assert [number for number, _ in ran] == list(range(50))
    assert {ident for _, ident in ran}.isdisjoint({threading.get_ident()})
    assert len({ident for _, ident in ran}) == 1


@pytest.mark.parametrize("error", [ValueError("no"), StopIteration(3), SystemExit(2)])
async def test_what_is_raised_arrives_and_the_thread_lives_on(side: SideThread, error: BaseException) -> None:
    """Whatever it is; the one that a future cannot hold arrives under another name."""

    def refuse() -> None:
        raise error

    failed = side.call(refuse)
    assert await side.call(lambda: 7) == 7
    raised = failed.exception()
    assert raised is error or (isinstance(error, StopIteration) and isinstance(raised, RuntimeError))


async def test_nobody_need_wait(side: SideThread) -> None:
    """A cancelled future is left alone, and what comes after it runs."""
    go_on = threading.Event()
    waiting = side.call(go_on.wait, 30)
    waiting.cancel()
    go_on.set()
    assert await side.call(lambda: 7) == 7
    assert waiting.cancelled()


async def test_close_waits_for_what_was_called() -> None:
    """And nothing is taken on afterwards."""
    side = SideThread("beside")
    ran: list[int] = []
    for number in range(20):
        side.call(ran.append, number)
    side.close()
    side.close()
    assert ran == list(range(20))
    with pytest.raises(RuntimeError, match="the thread beside has ended"):
        side.call(ran.append, 20)


def test_a_loop_that_ended_costs_nothing() -> None:
    """A call outlives its loop: its result is dropped, and the thread can be closed."""
    side, go_on, ran = SideThread("beside"), threading.Event(), []

    def late() -> None:
        go_on.wait(30)
        ran.append(1)

    async def leave() -> None:
        side.call(late)

    asyncio.run(leave())
    go_on.set()
    side.close()
    assert ran == [1]
