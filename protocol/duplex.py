"""Sending and receiving on a link side by side, until it is over, and nothing of it left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

from protocol.errors import ProtocolError


async def duplex(send: Coroutine[None, None, None], receive: Coroutine[None, None, None]) -> ProtocolError | None:
    """Run both until one fails or `send` has ended, and stop the other. The ProtocolError that ended the link, if any.

    It is returned, not raised: the traceback of an error that passes through those who serve the link holds their
    frames, and these hold the error's task. Such a circle waits for the garbage collector, for hours in a quiet
    process, with the bodies that were on their way. For the same reason there is no TaskGroup here.

    Raises:
        Exception: whatever else one of the two raised.
    """
    sending, receiving = asyncio.create_task(send), asyncio.create_task(receive)
    try:
        await asyncio.wait((sending, receiving), return_when=asyncio.FIRST_COMPLETED)
        if receiving.done() and not receiving.cancelled() and receiving.exception() is None:
            await asyncio.wait((sending,))  # the peer said goodbye: what waits to be sent is sent
    finally:
        sending.cancel()
        receiving.cancel()
        await asyncio.wait((sending, receiving))
    for task in (receiving, sending):  # what was received says more than that nothing can be sent
        error = None if task.cancelled() else task.exception()
        if isinstance(error, ProtocolError):
            return error
        if error is not None:
            raise error
    return None


__all__ = ["duplex"]
