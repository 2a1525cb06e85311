"""A link: one connection on one socket, as the master and the worker use it.

asyncio moves the bytes (straight into the memory of the message they belong to), :mod:`protocol.connection`
has the rules, :mod:`protocol.outbox` the order of sending. Heartbeats are answered and watched in here. When
the owner does not receive, reading stops, and the peer is slowed down by its own socket.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from protocol.budget import ReceiveBudget, Share
from protocol.buffers import Bytes1d, BytesLike, is_compressed, pack, unpack
from protocol.channel import Channel
from protocol.connection import Received
from protocol.errors import ConnectionLostError, LimitError, ProtocolError
from protocol.fields import WorkerInfo
from protocol.heartbeat import Heartbeat, Progress
from protocol.inbox import Inbox
from protocol.messages import Bye, Message, Ping, Pong
from protocol.outbox import Outbox
from protocol.settings import LinkSettings, set_kernel_timeouts
from protocol.states import State

logger = logging.getLogger(__name__)


class Memory(NamedTuple):
    """Of a process, in RAM and on its GPUs; None where nobody said."""

    ram_bytes: int | None = None
    gpu_bytes: int | None = None


class Link(asyncio.BufferedProtocol):
    """Messages to and from one peer; ``dial`` and ``listen`` of :mod:`protocol.transport` make them.

    ``own_memory`` is asked for each answer to a heartbeat; ``peer_memory`` is what the peer's last one said.

    ``on_connected`` is called with the peer's address before a byte is read, and may :meth:`refuse`.
    ``on_handshake`` is called once: when both sides have proved themselves or the link ended before.
    """

    def __init__(
        self,
        channel: Channel,
        name: str,
        settings: LinkSettings,
        on_handshake: Callable[[Link], None],
        on_connected: Callable[[Link, str], None] | None = None,
    ) -> None:
        self.connection = channel.connection
        self.name = name
        self.bytes_received = 0
        self.round_trip_s: float | None = None
        self.own_memory: Callable[[], Memory] = Memory
        self.peer_memory = Memory()
        self._settings = settings
        self._channel = channel
        self._on_handshake: Callable[[Link], None] | None = on_handshake
        self._on_connected = on_connected
        self._loop = asyncio.get_running_loop()
        self._progress = Progress(settings.slowest_bytes_per_s, settings.slowest_over_s, self._loop.time())
        self._share = Share(settings.budget, self._resume_soon)
        self._heartbeat = Heartbeat(settings.heartbeat_s, settings.dead_after_s, self._loop.time())
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._outbox: Outbox | None = None
        self._inbox = Inbox(settings.inbox_messages, settings.inbox_bytes)
        self._reading = True
        self._over: ProtocolError | None = None
        self._closing = False
        self._lost: asyncio.Future[None] = self._loop.create_future()

    # --- what the owner asks ------------------------------------------------------------------------------

    @property
    def peer(self) -> WorkerInfo | None:
        """What the worker says of itself; None on the worker's own side."""
        return self.connection.peer

    @property
    def over(self) -> ProtocolError | None:
        """Why the link ended; None while it lives."""
        return self._over

    @property
    def bytes_sent(self) -> int:
        """Bytes given to the socket so far, preludes and headers included."""
        return 0 if self._outbox is None else self._outbox.bytes_sent

    @property
    def last_heard_s(self) -> float:
        """Seconds since the last byte came in."""
        return self._heartbeat.silence_s(self._loop.time())

    def allow_body(self, nbytes: int) -> None:
        """From now on refuse bodies of more than ``nbytes`` bytes, on the wire or decompressed."""
        self.connection.body_limit = nbytes

    @property
    def budget(self) -> ReceiveBudget | None:
        """What this link shares with others for what comes in."""
        return self._settings.budget

    async def send(self, message: Message, buffers: Sequence[BytesLike] = ()) -> None:
        """Send after everything sent before; wait while the peer does not take it.

        ``buffers`` are not copied: leave them as they are until this returns. If it is cancelled the message
        may still go out.

        Raises:
            ConnectionLostError: the link is over (or was over before all was written).
            StateError, MessageError, LimitError: not sent, the peer would refuse it; the link goes on.
        """
        await self._open_outbox().send(message, pack(buffers))
        self._require_alive()

    def send_at_once(self, message: Message, buffers: Sequence[BytesLike] = ()) -> bool:
        """Send without waiting what is small, if nothing waits before it. False: `send` it, or learn there why not."""
        try:
            return self._open_outbox().send_at_once(message, pack(buffers))
        except ProtocolError:
            return False

    def send_soon(self, message: Message) -> None:
        """The same for a message without buffers, without waiting.

        Raises:
            ConnectionLostError: the link is over, or is cut now since ``outbox_messages`` wait already.
        """
        try:
            self._open_outbox().send_soon(message)
        except ConnectionLostError as error:
            self._end(error)
            self._require_alive()

    async def receive(self) -> tuple[Message, list[Bytes1d]]:
        """The next message and its buffers (uint8 each, writable). One receiver at a time.

        Raises:
            ConnectionLostError: the peer left, broke off or fell silent, after the last of what it sent.
            ProtocolError: the peer broke a rule; what it sent and nobody received yet is thrown away.
        """
        while (received := self._inbox.take()) is None:
            self._require_alive()
            await self._inbox.changed()
        self._share.give_back(received.body.nbytes)
        self._read_on()
        if not is_compressed(received.buffers):
            return received.message, unpack(received.buffers, received.body)
        try:
            return received.message, await asyncio.to_thread(unpack, received.buffers, received.body)
        except ProtocolError as error:
            self._end(error)
            raise

    async def close(self, reason: str) -> None:
        """Say Bye after everything sent before, and close; what the peer still sends is thrown away."""
        if not self._closing:
            self._closing = True
            try:
                if self._over is None and self._outbox is not None and self.connection.is_open:
                    await self._leave(self._outbox, reason)
            finally:
                self._end(ConnectionLostError(f"closed on this side: {reason}"))
                self._clear_inbox()
        if self._transport is not None:
            await asyncio.shield(self._lost)
        if self._outbox is not None:
            await self._outbox.finished()

    async def _leave(self, outbox: Outbox, reason: str) -> None:
        self._clear_inbox()
        self._read_on()
        with suppress(ProtocolError, TimeoutError):
            async with asyncio.timeout(self._settings.close_timeout_s):
                await outbox.send(Bye(reason), pack(()))
                if self._transport is not None and self._transport.can_write_eof():
                    self._transport.write_eof()
                # Reading goes on to the peer's end: closing with bytes unread would reset the connection, and
                # with it take away what the peer has not read yet of ours.
                await asyncio.shield(self._lost)

    def refuse(self, reason: str) -> None:
        """End the link before it begins: it is cut as soon as it is connected."""
        self._end(ConnectionLostError(reason))

    def _open_outbox(self) -> Outbox:
        self._require_alive()
        if self._outbox is None or self._closing:
            raise ConnectionLostError(f"{self.name}: this side is closing the link")
        return self._outbox

    def _require_alive(self) -> None:
        if self._over is not None:
            raise type(self._over)(*self._over.args)

    # --- what asyncio calls -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        host, port = (transport.get_extra_info("peername") or ("?", 0))[:2]  # none: it is gone again already
        if not self.name:
            self.name = f"the master at {host}:{port}"
        if self._on_connected is not None:
            self._on_connected(self, str(host))
        if self._over is not None:  # ended before it began: the server has too many like it
            transport.abort()
            return
        self._outbox = Outbox(self._channel, transport, self._settings.outbox_messages)
        self.connection.admit = self._share.admit
        set_kernel_timeouts(transport.get_extra_info("socket"), self._settings.user_timeout_s)
        self._timer = self._loop.call_later(self._settings.handshake_timeout_s, self._handshake_too_slow)
        self._outbox.write_raw(self._channel.handshake_bytes())

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._channel.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        self.bytes_received += nbytes
        self._heartbeat.heard(self._loop.time())
        if self._over is None:
            self._take_all(lambda: self._channel.received(nbytes))

    def _take_all(self, receive: Callable[[], list[Received]]) -> None:
        try:
            whole = receive()
            if self._on_handshake is not None:
                self._shake()
            for received in whole:
                self._take(received)
            if self.connection.is_held:
                self._stop_reading()
            if self._channel.is_ended:
                self._end(self._channel.cut("closed the connection"))
        except ProtocolError as error:
            self._end(error)
        except Exception as error:  # a mistake of ours must cost this link, not the process
            logger.exception("receiving from %s failed", self.name)
            self._end(ProtocolError(f"receiving failed: {error!r}"))

    def eof_received(self) -> bool:
        self._end(self._channel.cut("closed the connection"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(self._channel.cut(f"broke off ({exc})" if exc else "closed the connection"))
        if not self._lost.done():
            self._lost.set_result(None)

    def pause_writing(self) -> None:
        if self._outbox is not None:
            self._outbox.pause()

    def resume_writing(self) -> None:
        if self._outbox is not None:
            self._outbox.resume()

    # --- inside -------------------------------------------------------------------------------------------

    def _shake(self) -> None:
        assert self._outbox is not None
        if out := self._channel.handshake_bytes():
            self._outbox.write_raw(out)
        if self.connection.state is State.OPEN:
            if self._timer is not None:
                self._timer.cancel()
            self._heartbeat = Heartbeat(self._settings.heartbeat_s, self._settings.dead_after_s, self._loop.time())
            self._timer = self._loop.call_later(self._settings.heartbeat_s, self._beat)
            self._handshake_over()

    def _handshake_over(self) -> None:
        if self._on_handshake is not None:
            report, self._on_handshake = self._on_handshake, None
            report(self)

    def _handshake_too_slow(self) -> None:
        self._end(ConnectionLostError(f"the handshake was not over in {self._settings.handshake_timeout_s:g} s"))

    def _take(self, received: Received) -> None:
        message = received.message
        if isinstance(message, Ping):
            if self._outbox is not None and self.connection.is_open:
                self._outbox.send_soon(Pong(message.t, *self.own_memory()))
        elif isinstance(message, Pong):
            self.round_trip_s = max(0.0, self._loop.time() - message.t)
            self.peer_memory = Memory(message.memory_bytes, message.gpu_memory_bytes)
        elif not isinstance(message, Bye) and not self._closing:
            self._inbox.put(received)
            if self._inbox.is_full:
                self._stop_reading()
        else:
            self._share.give_back(received.body.nbytes)

    def _stop_reading(self) -> None:
        if self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = False
            self._transport.pause_reading()

    def _read_on(self) -> None:
        if self._reading or self._inbox.is_full or self.connection.is_held:
            return
        if self._transport is None or self._transport.is_closing():
            return
        self._reading = True
        self._heartbeat.not_listening(self._loop.time())
        self._transport.resume_reading()

    def _resume_soon(self) -> None:
        self._loop.call_soon(self._resume)  # not at once: whoever makes room is not done yet

    def _resume(self) -> None:
        """There is room now for the body that was held."""
        if self._over is None:
            self._take_all(self._channel.resumed)
            self._read_on()

    def _clear_inbox(self) -> None:
        self._share.give_back(self._inbox.nbytes)
        self._inbox.clear()

    def _beat(self) -> None:
        now_s = self._loop.time()
        if not self._reading:
            self._heartbeat.not_listening(now_s)
        if self._heartbeat.is_dead(now_s):
            self._end(ConnectionLostError(f"nothing was heard for {self._settings.dead_after_s:g} s"))
            return
        if self._progress.is_stuck(now_s, self.bytes_received, self._reading and self.connection.mid_message):
            self._end(LimitError(f"a message did not come on for {self._settings.slowest_over_s:g} s"))
            return
        self._timer = self._loop.call_later(self._settings.heartbeat_s, self._beat)
        if self._outbox is not None and self._outbox.is_taking and self.connection.is_open:
            self._outbox.send_soon(Ping(now_s))

    def _end(self, error: ProtocolError) -> None:
        """Over, once and for all; the first reason counts."""
        if self._over is not None:
            return
        self._over = type(error)(f"{self.name}: {error}")
        if self._timer is not None:
            self._timer.cancel()
        if not isinstance(error, ConnectionLostError):
            self._clear_inbox()  # nothing of a peer that broke a rule is used
        self._share.close(kept_bytes=self._inbox.nbytes)
        if self._outbox is not None:
            self._outbox.close()
        if self._transport is not None:
            self._transport.abort()
        self._inbox.wake()
        self._handshake_over()
