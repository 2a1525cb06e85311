"""Making links: the master dials, a worker listens.

Without a secret both keep to loopback, where whoever can connect can already run programs as a user of this
machine. Over plain TCP the secret protects the door and the checksums the content against accidents; a
network that strangers can write to needs TLS below (``LinkSettings.tls``).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

from protocol.channel import channel_of
from protocol.connection import Connection, Identity
from protocol.errors import ConnectionLostError, InputError, ProtocolError
from protocol.fields import WorkerInfo
from protocol.gate import Complaints, Gate
from protocol.link import Link
from protocol.settings import LinkSettings
from protocol.states import Role

logger = logging.getLogger(__name__)


async def dial(
    host: str,
    port: int,
    *,
    secret: bytes | None = None,
    settings: LinkSettings | None = None,
    visits: bool = False,
) -> Link:
    """Connect to the worker at ``host:port`` and prove to each other that both hold ``secret``.

    With ``visits`` the link serves to see :attr:`Link.peer` only: a worker takes no work on it, busy or not.

    Raises:
        InputError: no secret, and ``host`` is not this machine.
        ConnectionLostError: nobody listens there, or nobody answers in time.
        AuthenticationError: the two sides do not hold the same secret.
        ProtocolError: what listens there is no worker of this version.
    """
    settings = settings or LinkSettings()
    name = f"{host}:{port}"
    loop = asyncio.get_running_loop()
    shaken: asyncio.Future[None] = loop.create_future()
    connection = Connection(Role.MASTER, Identity(secret or b"", settings.codecs, visits=visits), settings.limits)

    def on_handshake(_: Link) -> None:
        if not shaken.done():
            shaken.set_result(None)

    try:
        async with asyncio.timeout(settings.connect_timeout_s):
            addresses = await _addresses(host, port)
            if not secret and not all(map(_is_loopback, addresses)):
                raise InputError(f"{name} is not this machine and there is no secret: give --secret-file FILE")
            channel = channel_of(connection, settings.tls)
            _, link = await loop.create_connection(lambda: Link(channel, name, settings, on_handshake), host, port)
    except TimeoutError:
        raise ConnectionLostError(f"{name}: no answer within {settings.connect_timeout_s:g} s") from None
    except OSError as error:
        raise ConnectionLostError(f"{name}: cannot connect: {error.strerror or error}") from None
    try:
        await shaken
    except asyncio.CancelledError:
        await link.close("the dialling was cancelled")
        raise
    if link.over is not None:
        await link.close("no handshake")
        raise type(link.over)(*link.over.args)
    return link


class Server:
    """A worker's open port. Made by :func:`listen`."""

    def __init__(self, identity: Identity, settings: LinkSettings, on_link: OnLink) -> None:
        self.port = 0
        self._identity = identity
        self._settings = settings
        self._on_link = on_link
        self._server: asyncio.Server | None = None
        self._gate = Gate(settings.unauthenticated_connections, settings.unauthenticated_per_address)
        self._complaints = Complaints()
        self._shaking: dict[Link, str] = {}
        self._serving: dict[asyncio.Task[None], Link] = {}

    @property
    def links(self) -> list[Link]:
        """The links whose peer has proved itself and which are still served."""
        return list(self._serving.values())

    async def open(self, host: str, port: int) -> None:
        """Begin to listen. Raises InputError when the address cannot be had."""
        try:
            self._server = await asyncio.get_running_loop().create_server(self._accept, host, port)
        except OSError as error:
            raise InputError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self, reason: str = "the worker stops") -> None:
        """Stop listening and close every link, after what was sent on it."""
        if self._server is not None:
            self._server.close()
        for link in list(self._shaking):
            await link.close(reason)
        await asyncio.gather(*(link.close(reason) for link in self.links))
        tasks = list(self._serving)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._server is not None:
            await self._server.wait_closed()

    def _accept(self) -> Link:
        connection = Connection(Role.WORKER, self._identity, self._settings.limits)
        return Link(channel_of(connection, self._settings.tls), "", self._settings, self._shaken, self._connected)

    def _connected(self, link: Link, address: str) -> None:
        refusal = self._gate.refusal(address)
        if refusal is None:
            self._shaking[link] = address
        else:
            link.refuse(refusal)

    def _shaken(self, link: Link) -> None:
        if (address := self._shaking.pop(link, None)) is not None:
            self._gate.leave(address)
        if link.over is not None:
            line = self._complaints.line(f"a connection was refused: {link.over}", time.monotonic())
            if line is not None:
                logger.warning("%s", line)
            return
        task = asyncio.get_running_loop().create_task(self._serve(link))
        self._serving[task] = link
        task.add_done_callback(lambda done: self._serving.pop(done, None) and None)

    async def _serve(self, link: Link) -> None:
        reason = "the worker is done with this link"
        try:
            await self._on_link(link)
        except ProtocolError as error:
            logger.info("a link ended: %s", error)
        except Exception as error:
            logger.exception("serving %s failed", link.name)
            reason = f"the worker failed: {error!r}"
        finally:
            await link.close(reason)


OnLink = Callable[[Link], Awaitable[None]]


async def listen(
    host: str,
    port: int,
    *,
    secret: bytes | None = None,
    info: Callable[[], WorkerInfo],
    on_link: OnLink,
    settings: LinkSettings | None = None,
) -> Server:
    """Listen for masters on ``host:port`` (0: any free port, see :attr:`Server.port`).

    ``on_link`` is awaited, in a task of its own, for each master that has proved itself; the link is closed
    when it returns.

    Raises:
        InputError: no secret, and ``host`` is more than loopback; or the address cannot be had.
    """
    settings = settings or LinkSettings()
    if not secret:
        try:
            addresses = await _addresses(host, port)
        except OSError as error:
            raise InputError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
        if not all(map(_is_loopback, addresses)):
            raise InputError(
                f"listening on {host} lets other machines in, and there is no secret: give --secret-file "
                "FILE (make one with: flctl keygen FILE) or listen on 127.0.0.1"
            )
    server = Server(Identity(secret or b"", settings.codecs, info), settings, on_link)
    await server.open(host, port)
    return server


async def _addresses(host: str, port: int) -> list[str]:
    """The numeric addresses behind ``host``; when it is empty, what stands for all of this machine's."""
    found: list[tuple[Any, ...]] = await asyncio.get_running_loop().getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return [str(entry[4][0]) for entry in found]


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
