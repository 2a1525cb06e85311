"""What a link has received and its owner has not: a queue that says when it is full."""

from __future__ import annotations

import asyncio
from collections import deque

from protocol.connection import Received


class Inbox:
    """The receiving half of a link, for one receiver at a time."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._queue: deque[Received] = deque()
        self._nbytes = 0
        self._receiver: asyncio.Future[None] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the bodies in here."""
        return self._nbytes

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be read until something is taken."""
        return len(self._queue) >= self._max_messages or self._nbytes >= self._max_bytes

    def put(self, received: Received) -> None:
        """Add a message and wake the receiver."""
        self._queue.append(received)
        self._nbytes += received.body.nbytes
        self.wake()

    def take(self) -> Received | None:
        """The oldest message; None when there is none."""
        if not self._queue:
            return None
        received = self._queue.popleft()
        self._nbytes -= received.body.nbytes
        return received

    def clear(self) -> None:
        """Throw away what nobody took."""
        self._queue.clear()
        self._nbytes = 0

    def wake(self) -> None:
        """Let the receiver look again."""
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)

    async def changed(self) -> None:
        """Return when there is something to look at."""
        if self._receiver is not None and not self._receiver.done():
            raise RuntimeError("a link has one receiver at a time")
        self._receiver = asyncio.get_running_loop().create_future()
        await self._receiver
