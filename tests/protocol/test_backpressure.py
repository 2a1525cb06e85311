"""Bounded memory on real sockets: links that share a budget, owners that are slow, peers that drip."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from protocol import Link, LinkSettings, Server, dial, listen
from protocol import messages as m
from protocol.budget import ReceiveBudget
from protocol.connection import Connection
from protocol.errors import ConnectionLostError, ProtocolError
from protocol.fields import TensorSpec
from protocol.states import Role
from protocol.tls import Tls, master_tls
from tests.protocol.certificates import made_by_keygen

pytestmark = pytest.mark.net
BODY = 1_000_000


@pytest.fixture(params=["plain", "tls"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Tls | None, Tls | None]:
    """The two halves of TLS, or none."""
    if request.param == "plain":
        return None, None
    made = made_by_keygen(tmp_path)
    return made.worker, master_tls([made.fingerprint], None)


@asynccontextmanager
async def serving(
    wire: Any, on_link: Callable[[Link], Awaitable[None]], settings: LinkSettings
) -> AsyncIterator[Server]:
    """A worker's port, closed at the end."""
    server = await listen(
        "127.0.0.1", 0, secret=wire.secret, info=lambda: wire.info, on_link=on_link, settings=settings
    )
    try:
        yield server
    finally:
        await server.close()


async def settled(condition: Callable[[], bool]) -> None:
    """Let the loop run until it holds (the test's own time limit bounds it)."""
    while not condition():
        await asyncio.sleep(0.001)


def tensor(nbytes: int) -> list[TensorSpec]:
    """The specification of one tensor of bytes."""
    return [TensorSpec("x", "uint8", [nbytes])]


async def test_links_that_share_a_budget_keep_within_it_and_lose_nothing(
    wire: Any, both: tuple[Tls | None, Tls | None]
) -> None:
    """Four workers send 20 MB each to an owner that takes nothing: 3 MB come in; then all of it, each in order."""
    of_worker, of_master = both
    budget = ReceiveBudget(3 * BODY)
    data = [bytes([k]) * BODY for k in range(20)]

    async def send_all(link: Link) -> None:
        for k, body in enumerate(data):
            await link.send(m.Result("r", 0, k, 0, [], [], tensor(BODY)), [body])
        await link.receive()

    async with serving(wire, send_all, LinkSettings(tls=of_worker)) as server:
        settings = LinkSettings(budget=budget, tls=of_master)
        links = [await dial("127.0.0.1", server.port, secret=wire.secret, settings=settings) for _ in range(4)]
        await settled(lambda: budget.taken_bytes == 3 * BODY and len(budget._waiting) == 4)
        for _ in range(200):  # turns of the loop in which more would come if it could
            await asyncio.sleep(0)
            assert budget.taken_bytes <= 3 * BODY
        taken = sum(link.bytes_received for link in links)
        assert taken < 4 * BODY + 4 * 600_000  # what the budget let in, and what a link reads at once beside it

        async def receive_all(link: Link) -> list[bytes]:
            return [bytes((await link.receive())[1][0]) for _ in data]

        assert await asyncio.gather(*map(receive_all, links)) == [data] * 4
        assert budget.taken_bytes == 0
        for link in links:
            await link.close("enough")


async def test_a_link_that_ends_gives_its_share_to_the_others(wire: Any) -> None:
    """Two links hold the whole budget and are cut: the third, which waited, gets its body; nothing stays taken."""
    budget = ReceiveBudget(2 * BODY)
    settings = LinkSettings(budget=budget)

    async def send_one(link: Link) -> None:
        await link.send(m.Result("r", 0, 0, 0, [], [], tensor(BODY)), [bytes(BODY)])
        await link.receive()

    async with serving(wire, send_one, LinkSettings()) as server:
        links = []
        for waiting in (0, 0, 1):
            links.append(await dial("127.0.0.1", server.port, secret=wire.secret, settings=settings))
            await settled(lambda: budget.taken_bytes == min(2, len(links)) * BODY)
            await settled(lambda: len(budget._waiting) == waiting)  # noqa: B023  likewise
        await links[0].close("its worker is lost")
        assert bytes((await links[2].receive())[1][0]) == bytes(BODY)
        await links[1].close("so is this one")
        await links[2].close("enough")
    assert budget.taken_bytes == 0


def shaken_socket(wire: Any, port: int) -> tuple[socket.socket, Connection]:
    """A master made of a blocking socket that does its handshake."""
    sock = socket.create_connection(("127.0.0.1", port))
    master = Connection(Role.MASTER, wire.identity)
    while not master.is_open:
        sock.sendall(master.handshake_bytes())
        wire.feed(master, sock.recv(65536))
    return sock, master


async def test_a_message_that_drips_in_ends_the_link(wire: Any) -> None:
    """Heartbeats alone keep an idle link; under a message that was begun and does not come on they do not."""
    settings = LinkSettings(heartbeat_s=0.05, dead_after_s=30.0, slowest_over_s=0.3)
    ends: asyncio.Queue[ProtocolError] = asyncio.Queue()

    async def watch(link: Link) -> None:
        try:
            while True:
                await link.receive()
        except ProtocolError as error:
            await ends.put(error)

    async with serving(wire, watch, settings) as server:
        sock, master = await asyncio.to_thread(shaken_socket, wire, server.port)
        (link,) = await _one(server)
        await asyncio.to_thread(sock.sendall, master.send(m.Forget("r"))[:-1])
        error = await ends.get()
        assert "did not come on for 0.3 s" in str(error)
        assert link.over is not None
        sock.close()


async def _one(server: Server) -> list[Link]:
    await settled(lambda: len(server.links) == 1)
    return server.links


async def test_a_peer_that_reads_nothing_costs_one_piece(wire: Any, both: tuple[Tls | None, Tls | None]) -> None:
    """Of 64 MB to a peer whose socket is full, what is buffered beside the sender's own array is one piece or two."""
    of_worker, of_master = both
    go = asyncio.Event()

    async def sleep(link: Link) -> None:
        await go.wait()
        while True:
            await link.receive()

    settings = LinkSettings(inbox_bytes=1, tls=of_worker)
    async with serving(wire, sleep, settings) as server:
        link = await dial("127.0.0.1", server.port, secret=wire.secret, settings=replace(LinkSettings(), tls=of_master))
        data = bytes(16_000_000)
        sends = [asyncio.create_task(link.send(m.Shard("r", k, tensor(len(data))), [data])) for k in range(4)]
        assert link._outbox is not None
        await settled(lambda: link._outbox._paused is not None and link.bytes_sent > 17_000_000)  # type: ignore[union-attr]
        for _ in range(200):
            await asyncio.sleep(0)
            assert link._transport is not None
            assert link._transport.get_write_buffer_size() < 2_200_000
        assert not all(send.done() for send in sends)
        go.set()
        await asyncio.gather(*sends)
        await link.close("enough")


async def test_what_was_not_taken_when_a_link_ends_is_not_kept(wire: Any) -> None:
    """A whole body that its owner never asked for is given back when the owner closes the link."""
    budget = ReceiveBudget(10 * BODY)

    async def leave(link: Link) -> None:
        await link.send(m.Result("r", 0, 0, 0, [], [], tensor(BODY)), [bytes(BODY)])
        await link.close("going home")

    async with serving(wire, leave, LinkSettings()) as server:
        link = await dial("127.0.0.1", server.port, secret=wire.secret, settings=LinkSettings(budget=budget))
        await settled(lambda: link.over is not None)
        assert budget.taken_bytes == BODY
        with pytest.raises(ConnectionLostError):
            await link.send(m.Forget("r"))
        await link.close("so be it")
    assert budget.taken_bytes == 0
