"""Two directions of a link side by side: who ends whom, and what is told."""

from __future__ import annotations

import asyncio

import pytest

from protocol.duplex import duplex
from protocol.errors import ConnectionLostError, MessageError


class Direction:
    """One half: it waits until it is told how to end."""

    def __init__(self) -> None:
        self.how: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended: str | None = None

    async def run(self) -> None:
        try:
            await self.how
            self.ended = "by itself"
        except asyncio.CancelledError:
            self.ended = "stopped"
            raise


async def pair() -> tuple[Direction, Direction, asyncio.Task[object]]:
    """Sending, receiving, and both of them under way."""
    sending, receiving = Direction(), Direction()
    both = asyncio.create_task(duplex(sending.run(), receiving.run()))
    await asyncio.sleep(0)
    return sending, receiving, both


@pytest.mark.parametrize("fails", ["sending", "receiving"])
async def test_the_error_that_ended_the_link_is_returned(fails: str) -> None:
    """Whichever fails, the other is stopped, and the error is what the call gives back."""
    sending, receiving, both = await pair()
    failing, other = (sending, receiving) if fails == "sending" else (receiving, sending)
    error = ConnectionLostError("broke off")
    failing.how.set_exception(error)
    assert await both is error
    assert other.ended == "stopped"


async def test_of_two_errors_the_receiver_s_is_told() -> None:
    """It says what the peer did; the sender's says only that nothing can be sent any more."""
    sending, receiving, both = await pair()
    sending.how.set_exception(ConnectionLostError("closed"))
    receiving.how.set_exception(MessageError("a Result for other clients"))
    assert isinstance(await both, MessageError)


async def test_after_a_goodbye_what_waits_is_sent() -> None:
    """The receiver's end does not stop the sender; the sender's end is the end of both."""
    sending, receiving, both = await pair()
    receiving.how.set_result(None)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sending.ended is None
    sending.how.set_result(None)
    assert await both is None
    assert sending.ended == "by itself"


async def test_the_end_of_sending_stops_receiving() -> None:
    """A worker that has handed everything back listens no longer."""
    sending, receiving, both = await pair()
    sending.how.set_result(None)
    assert await both is None
    assert receiving.ended == "stopped"


async def test_other_errors_are_raised() -> None:
    """A mistake of ours is not taken for the end of a link."""
    sending, receiving, both = await pair()
    receiving.how.set_exception(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await both
    assert sending.ended == "stopped"


async def test_cancelling_it_stops_both() -> None:
    """And both have ended when it has."""
    sending, receiving, both = await pair()
    both.cancel()
    with pytest.raises(asyncio.CancelledError):
        await both
    assert (sending.ended, receiving.ended) == ("stopped", "stopped")
