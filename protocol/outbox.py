"""What a link has still to send: a first-in first-out queue, and a task that writes while it is not empty.

Messages keep their order; a body goes out in pieces of at most 1 MiB with a turn for everybody else after
each, and waits for the peer to take them. Only urgent messages (heartbeats, cancellations) pass, between two
pieces.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass

from protocol.buffers import Body, compressed, may_compress, pack
from protocol.channel import Channel
from protocol.errors import ConnectionLostError, ProtocolError
from protocol.messages import URGENT, Message

logger = logging.getLogger(__name__)

SMALL_BYTES = 64 << 10
BACKLOG_BYTES = 4 << 20
_EMPTY = pack(())


@dataclass(slots=True)
class _Entry:
    message: Message
    body: Body
    written: asyncio.Future[None] | None = None
    refusal: Exception | None = None


class Outbox:
    """The sending half of a link."""

    def __init__(self, channel: Channel, transport: asyncio.Transport, limit: int) -> None:
        self.bytes_sent = 0
        self._channel = channel
        self._connection = channel.connection
        self._transport = transport
        self._limit = limit
        self._queue: deque[_Entry] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._paused: asyncio.Future[None] | None = None
        self._closed = False
        # Paused while anything is left that the kernel did not take: so no copy of a remainder grows on 3.11,
        # and on 3.12, where remainders are kept by reference, a body is the caller's again when its send()
        # returns.
        transport.set_write_buffer_limits(high=0, low=0)

    @property
    def is_idle(self) -> bool:
        """Whether a message may be written at once without passing another."""
        return self._writer is None and self._paused is None and not self._closed

    @property
    def is_taking(self) -> bool:
        """Whether the kernel has taken everything so far."""
        return self._paused is None and not self._closed

    async def send(self, message: Message, body: Body) -> None:
        """Return when the message is handed to the kernel, or the link is over (the owner checks which)."""
        if self._may_go_at_once(body) or (type(message) in URGENT and not self._closed):
            self._write_small(message, body)
            return
        entry = _Entry(message, body, asyncio.get_running_loop().create_future())
        self._append(entry)
        assert entry.written is not None
        try:
            await entry.written
        except asyncio.CancelledError:
            if entry in self._queue:
                self._queue.remove(entry)
            raise
        if entry.refusal is not None:
            raise entry.refusal

    def send_at_once(self, message: Message, body: Body) -> bool:
        """Whether the message is written now: it is small and passes no other. Raises as `send`; nothing is written."""
        if self._may_go_at_once(body):
            self._write_small(message, body)
            return True
        return False

    def send_soon(self, message: Message) -> None:
        """The same without a body or waiting. Raises ConnectionLostError when the peer is too far behind."""
        passes = self.is_idle or type(message) in URGENT
        behind = self._transport.get_write_buffer_size() > BACKLOG_BYTES
        if behind or (not passes and len(self._queue) >= self._limit):
            raise ConnectionLostError("does not take what is sent to it")
        if passes:
            self._write_small(message, _EMPTY)
        else:
            self._append(_Entry(message, _EMPTY))

    def write(self, *parts: bytes | memoryview) -> None:
        """Hand whole frames to the transport."""
        for part in parts:
            self.write_raw(self._channel.sealed(part))

    def write_raw(self, data: bytes | memoryview) -> None:
        """Hand the transport what is already as it goes to the socket."""
        self.bytes_sent += len(data)
        self._transport.write(data)

    def pause(self) -> None:
        """The kernel takes no more."""
        if self._paused is None:
            self._paused = asyncio.get_running_loop().create_future()

    def resume(self) -> None:
        """The kernel has taken everything."""
        if self._paused is not None:
            paused, self._paused = self._paused, None
            if not paused.done():
                paused.set_result(None)

    def close(self) -> None:
        """The link is over: let go of everybody who waits; nothing more is written."""
        self._closed = True
        self.resume()
        for entry in self._queue:
            _release(entry)
        self._queue.clear()

    async def finished(self) -> None:
        """Wait until the writing task, if there is one, has ended."""
        if self._writer is not None:
            await asyncio.wait([self._writer])

    def _append(self, entry: _Entry) -> None:
        if self._closed:
            _release(entry)
            return
        self._queue.append(entry)
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write_queue())

    def _may_go_at_once(self, body: Body) -> bool:
        return body.nbytes <= SMALL_BYTES and self.is_idle

    def _write_small(self, message: Message, body: Body) -> None:
        parts: list[bytes | memoryview] = [self._connection.send(message, body)]
        if body.nbytes:
            while (piece := self._connection.next_piece()) is not None:
                parts.extend(piece)
        self.write(b"".join(parts))

    async def _write_queue(self) -> None:
        try:
            while self._queue:
                entry = self._queue.popleft()
                try:
                    await self._write(entry)
                finally:
                    _release(entry)
        except Exception:
            logger.exception("the writing task of a link failed; the link is cut")
            self._transport.abort()
        finally:
            self._writer = None

    async def _write(self, entry: _Entry) -> None:
        await self._taken()
        body = entry.body
        try:
            if "lz4" in self._connection.codecs and may_compress(body):
                body = await asyncio.to_thread(compressed, body)
            if self._closed:
                return
            frame = self._connection.send(entry.message, body)
        except ProtocolError as error:
            entry.refusal = error  # nothing was written: the mistake is the caller's, and the link goes on
            if entry.written is None:
                logger.error("a %s was not sent: %s", type(entry.message).__name__, error)
            return
        self.write(frame)
        while not self._closed and (piece := self._connection.next_piece()) is not None:
            self.write(*piece)
            await asyncio.sleep(0)  # waiting for the kernel alone gives nobody else a turn while it takes all
            await self._taken()

    async def _taken(self) -> None:
        while self._paused is not None:
            await self._paused


def _release(entry: _Entry) -> None:
    if entry.written is not None and not entry.written.done():
        entry.written.set_result(None)
