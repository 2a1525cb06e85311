"""protocol.transport: links over real sockets on loopback."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from protocol import Limits, Link, LinkSettings, Server, dial, listen
from protocol import messages as m
from protocol.connection import Connection
from protocol.errors import AuthenticationError, ConnectionLostError, InputError, ProtocolError
from protocol.fields import TensorSpec
from protocol.link import Memory
from protocol.states import Role

pytestmark = pytest.mark.net

QUICK = LinkSettings(heartbeat_s=0.05, dead_after_s=0.25, close_timeout_s=1.0)
Handler = Callable[[Link], Awaitable[None]]


@pytest.fixture(autouse=True)
async def _nothing_is_left() -> AsyncIterator[None]:
    """No test may leave a task behind."""
    yield
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def hold(link: Link) -> None:
    """Serve a link by receiving and answering nothing."""
    while True:
        await link.receive()


@asynccontextmanager
async def serving(wire: Any, on_link: Handler, **options: Any) -> AsyncIterator[Server]:
    """A worker's port, closed at the end."""
    options = {"secret": wire.secret, "settings": LinkSettings()} | options
    server = await listen("127.0.0.1", 0, info=lambda: wire.info, on_link=on_link, **options)
    try:
        yield server
    finally:
        await server.close()


@asynccontextmanager
async def linked(wire: Any, on_link: Handler, settings: LinkSettings | None = None) -> AsyncIterator[Link]:
    """A master's link to a worker that runs ``on_link``; both closed at the end."""
    settings = settings or LinkSettings()
    async with serving(wire, on_link, settings=settings) as server:
        link = await dial("127.0.0.1", server.port, secret=wire.secret, settings=settings)
        try:
            yield link
        finally:
            await link.close("the test is over")


async def echo(link: Link) -> None:
    """Answer every Shard by a Result with the same buffer."""
    while True:
        message, buffers = await link.receive()
        if isinstance(message, m.Shard):
            result = m.Result("run", 0, 0, 0, [], [], message.tensors)
            await link.send(result, buffers)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until ``condition`` holds (the test's own time limit bounds it)."""
    while not condition():
        await asyncio.sleep(0)


def tensor(nbytes: int) -> list[Any]:
    """The specification of one tensor of bytes."""
    return [TensorSpec("x", "uint8", [nbytes])]


async def test_a_large_body_goes_there_and_back(wire: Any) -> None:
    """48 MB, not a multiple of anything, each way; the counters on both ends agree with what was sent."""
    data = bytes(range(251)) * 190_000
    async with linked(wire, echo) as link:
        assert link.peer == wire.info
        await link.send(m.Shard("run", 0, tensor(len(data))), [data])
        message, (array,) = await link.receive()
        assert isinstance(message, m.Result)
        assert bytes(array) == data
        assert len(data) < link.bytes_sent < 1.001 * len(data)
        assert len(data) < link.bytes_received < 1.001 * len(data)


async def test_lz4_is_used_when_both_offer_it(wire: Any) -> None:
    """10 MB of zeros take a hundredth of that on the wire, and arrive."""
    data = bytes(10_000_000)
    async with linked(wire, echo, LinkSettings(codecs=("lz4",))) as link:
        await link.send(m.Shard("run", 0, tensor(len(data))), [data])
        _, (array,) = await link.receive()
        assert bytes(array) == data
        assert link.bytes_sent < len(data) / 100
        assert link.bytes_received < len(data) / 100


async def test_messages_keep_their_order_and_urgent_ones_pass(wire: Any) -> None:
    """Behind a body of 20 MB wait a task and a small message; a Cancel sent last arrives first."""
    seen: list[str] = []
    done = asyncio.Event()

    async def collect(link: Link) -> None:
        while True:
            message, _ = await link.receive()
            seen.append(type(message).__name__)
            if isinstance(message, m.Forget):
                done.set()

    async with linked(wire, collect) as link:
        data = bytes(20_000_000)
        bulk = asyncio.create_task(link.send(m.Shard("run", 0, tensor(len(data))), [data]))
        await until(lambda: link.connection.sending_body)
        task = asyncio.create_task(link.send(m.Task("run", 0, 0, 0, [], [])))
        await asyncio.sleep(0)
        link.send_soon(m.Forget("run"))
        link.send_soon(m.Cancel("run", 1, [(0, 0)]))
        await asyncio.gather(bulk, task)
        await done.wait()
    assert seen == ["Cancel", "Shard", "Task", "Forget"]


async def test_what_is_sent_at_once_passes_nothing(wire: Any) -> None:
    """A small message goes at once on an idle link; not a large one, not behind another, not one that is refused."""
    async with linked(wire, echo) as link:
        small, large = bytes(1000), bytes(10_000_000)
        assert link.send_at_once(m.Shard("run", 0, tensor(len(small))), [small])
        assert bytes((await link.receive())[1][0]) == small
        assert not link.send_at_once(m.Shard("run", 0, tensor(len(large))), [large])
        assert not link.send_at_once(m.Shard("run", 0, tensor(7)), [small])
        sent = asyncio.create_task(link.send(m.Shard("run", 1, tensor(len(large))), [large]))
        await until(lambda: link.connection.sending_body)
        assert not link.send_at_once(m.Forget("run"))
        await sent
        assert (await link.receive())[1][0].nbytes == len(large)
    assert not link.send_at_once(m.Forget("run"))


async def test_a_slow_owner_slows_the_sender_and_loses_nothing(wire: Any) -> None:
    """While the owner does not receive, no more than the inbox and one body are taken in; then all arrive."""
    settings = LinkSettings(inbox_bytes=3_000_000, inbox_messages=4)
    go, received = asyncio.Event(), []
    links: list[Link] = []

    async def late(link: Link) -> None:
        links.append(link)
        await go.wait()
        while True:
            message, (array,) = await link.receive()
            assert isinstance(message, m.Shard)
            received.append((message.client, bytes(array)))

    async with linked(wire, late, settings) as link:
        data = bytes(1_000_000)
        sends = [asyncio.create_task(link.send(m.Shard("r", i, tensor(len(data))), [data])) for i in range(40)]
        await until(lambda: bool(links) and links[0]._inbox.is_full)
        taken = links[0].bytes_received
        assert taken < 5_000_000
        await asyncio.sleep(0.05)
        assert links[0].bytes_received == taken
        assert not all(send.done() for send in sends)
        go.set()
        await asyncio.gather(*sends)
        await until(lambda: len(received) == 40)
    assert received == [(i, data) for i in range(40)]


async def test_a_message_the_peer_would_refuse_is_the_senders_error(wire: Any) -> None:
    """A wrong buffer raises at the sender, large or small, and the link goes on."""
    async with linked(wire, echo) as link:
        for size in (10, 1_000_000):
            with pytest.raises(ProtocolError, match="buffer 0"):
                await link.send(m.Shard("run", 0, tensor(size + 1)), [bytes(size)])
        await link.send(m.Shard("run", 0, tensor(3)), [b"abc"])
        assert bytes((await link.receive())[1][0]) == b"abc"


async def test_a_body_over_the_limit_ends_the_link(wire: Any) -> None:
    """The receiving side has lowered its limit: the sender is cut off and told that it is."""
    limits = LinkSettings(limits=Limits(body_bytes=1000))
    async with serving(wire, hold, settings=limits) as server:
        link = await dial("127.0.0.1", server.port, secret=wire.secret)
        with suppress(ConnectionLostError):  # the end may come while the body is still going out
            await link.send(m.Shard("run", 0, tensor(50_000_000)), [bytes(50_000_000)])
        with pytest.raises(ConnectionLostError):
            await link.receive()
        await link.close("over")


async def test_what_was_sent_before_bye_is_received_before_the_end(wire: Any) -> None:
    """A worker answers and leaves at once: the answers come first, then the reason it gave."""

    async def leave(link: Link) -> None:
        await link.receive()
        for round_ in range(3):
            await link.send(m.Failure("run", round_, 0, 0, wire.from_worker[2][0].report))
        await link.close("going home")

    async with linked(wire, leave) as link:
        await link.send(m.Forget("run"))
        for _ in range(10):  # unread by the worker: they must not reset the connection
            link.send_soon(m.Ping(0.0))
        assert [(await link.receive())[0].round for _ in range(3)] == [0, 1, 2]  # type: ignore[attr-defined]
        with pytest.raises(ConnectionLostError, match="going home"):
            await link.receive()
        with pytest.raises(ConnectionLostError, match="going home"):
            await link.send(m.Forget("run"))


async def test_a_wrong_secret_is_refused_with_advice(wire: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Other, or none, on either side: AuthenticationError at the master, a warning at the worker, no service."""
    served: list[Link] = []

    async def on_link(link: Link) -> None:
        served.append(link)

    for of_worker, of_master in ((wire.secret, b"o" * 32), (wire.secret, None), (None, wire.secret)):
        async with serving(wire, on_link, secret=of_worker) as server:
            with pytest.raises(AuthenticationError, match="--secret-file"):
                await dial("127.0.0.1", server.port, secret=of_master)
            assert "--secret-file" in caplog.text
            caplog.clear()
    assert served == []


async def test_without_a_secret_both_keep_to_loopback(wire: Any) -> None:
    """Loopback works without; listening to all, or dialling elsewhere, is the user's error and names the flag."""
    async with serving(wire, hold, secret=None) as server:
        link = await dial("localhost", server.port, settings=QUICK)
        await link.close("enough")
    for host in ("0.0.0.0", "::", ""):
        with pytest.raises(InputError, match="--secret-file"):
            await listen(host, 0, secret=None, info=lambda: wire.info, on_link=hold)
    with pytest.raises(InputError, match="--secret-file"):
        await dial("192.0.2.1", 7000)


async def test_an_address_that_cannot_be_had_is_explained(wire: Any) -> None:
    """A port that is taken is the user's error; one that nobody listens on is a lost connection."""
    async with serving(wire, hold) as server:
        with pytest.raises(InputError, match=str(server.port)):
            await listen("127.0.0.1", server.port, secret=b"", info=lambda: wire.info, on_link=hold)
    with pytest.raises(ConnectionLostError, match=f"127.0.0.1:{server.port}"):
        await dial("127.0.0.1", server.port, secret=wire.secret)


HOSTILE = {
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "garbage": b"\xff" * 100,
    "version": b"FLSP\x07",
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_stranger_is_cut_off_at_once(wire: Any, name: str) -> None:
    """The connection of a stranger ends with no byte in answer, and the next master is served."""
    async with serving(wire, echo) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(HOSTILE[name])
        answer = b""
        with suppress(ConnectionError):
            answer = await asyncio.wait_for(reader.read(), LinkSettings().handshake_timeout_s / 2)
        assert answer == b""
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        link = await dial("127.0.0.1", server.port, secret=wire.secret)
        await link.close("enough")


async def test_strangers_that_wait_are_few_and_not_for_long(wire: Any) -> None:
    """Beyond the allowed number a connection is cut at once, the others when their time is up."""
    settings = LinkSettings(unauthenticated_connections=3, handshake_timeout_s=0.2)
    async with serving(wire, hold, settings=settings) as server:
        streams = []
        for _ in range(5):
            streams.append(await asyncio.open_connection("127.0.0.1", server.port))
            await until(lambda: len(server._shaking) == min(3, len(streams)))
        for reader, _ in streams[3:] + streams[:3]:
            with suppress(ConnectionError):
                assert await reader.read() == b""
        assert not server._shaking
        for _, writer in streams:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def test_a_master_that_dials_something_else_does_not_wait_for_ever() -> None:
    """A port that accepts and says nothing, and one that speaks another language, end in a ProtocolError."""
    for says, error in ((b"", ConnectionLostError), (b"220 mail.example.org ESMTP\r\n", ProtocolError)):

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, says: bytes = says) -> None:
            writer.write(says)
            with suppress(ConnectionError):
                await reader.read()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(error):
                await dial("127.0.0.1", port, settings=replace(QUICK, handshake_timeout_s=0.1))
        await until(lambda: len(asyncio.all_tasks()) <= 2)


def shaken_socket(wire: Any, port: int) -> socket.socket:
    """A master made of a blocking socket that does its handshake and nothing after."""
    sock = socket.create_connection(("127.0.0.1", port))
    master = Connection(Role.MASTER, wire.identity)
    while not master.is_open:
        sock.sendall(master.handshake_bytes())
        wire.feed(master, sock.recv(65536))
    return sock


@pytest.mark.parametrize("how", ["silent", "closed", "reset"])
async def test_a_lost_peer_is_noticed(wire: Any, how: str) -> None:
    """A peer that stays silent is lost after the limit; one that closes or resets, at once."""
    ends: asyncio.Queue[tuple[str, float]] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    async def watch(link: Link) -> None:
        start_s = loop.time()
        try:
            await link.receive()
        except ConnectionLostError as error:
            await ends.put((str(error), loop.time() - start_s))

    async with serving(wire, watch, settings=QUICK) as server:
        sock = await asyncio.to_thread(shaken_socket, wire, server.port)
        if how == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        if how != "silent":
            sock.close()
        text, after_s = await ends.get()
        assert {"silent": "nothing was heard", "closed": "closed", "reset": "broke off"}[how] in text
        if how == "silent":
            assert after_s >= QUICK.dead_after_s - QUICK.heartbeat_s
        sock.close()


async def test_heartbeats_keep_an_idle_link(wire: Any) -> None:
    """A link on which nobody says anything lives on well beyond the limit, by its pings alone."""
    async with linked(wire, hold, QUICK) as link:
        loop = asyncio.get_running_loop()
        end_s = loop.time() + 2 * QUICK.dead_after_s
        await until(lambda: loop.time() > end_s)
        assert link.over is None
        assert link.last_heard_s < QUICK.dead_after_s
        assert link.round_trip_s is not None


async def test_memory_comes_with_the_heartbeat(wire: Any) -> None:
    """What the worker's owner says of its memory is known at the other end, and nothing where nobody says anything."""

    async def worker(link: Link) -> None:
        link.own_memory = lambda: Memory(1 << 30, 7)
        await hold(link)

    async with linked(wire, worker, QUICK) as link:
        assert link.peer_memory == Memory(None, None)
        await until(lambda: link.round_trip_s is not None)
        assert link.peer_memory == Memory(1 << 30, 7)


async def test_a_peer_that_takes_nothing_is_cut_by_send_soon(wire: Any) -> None:
    """Messages sent without waiting do not pile up without bound: the link ends, and says so."""
    async with serving(wire, hold) as server:
        port = server.port
        master = await asyncio.to_thread(shaken_socket, wire, port)
        await until(lambda: bool(server.links))
        (link,) = server.links

        def flood() -> None:
            for _ in range(1_000_000):
                link.send_soon(m.Failure("run", 0, 0, 0, wire.from_worker[2][0].report))

        with pytest.raises(ConnectionLostError, match="does not take"):
            flood()
        with pytest.raises(ConnectionLostError):
            await link.send(m.Drain())
        master.close()


async def test_a_failing_handler_is_logged_and_its_link_closed(wire: Any, caplog: pytest.LogCaptureFixture) -> None:
    """An exception of the owner reaches the log with its traceback and the peer as a reason, and no one else."""

    async def fail(link: Link) -> None:
        await link.receive()
        raise KeyError("a mistake")

    with caplog.at_level(logging.ERROR):
        async with linked(wire, fail) as link:
            await link.send(m.Forget("run"))
            with pytest.raises(ConnectionLostError, match="a mistake"):
                await link.receive()
    assert "KeyError" in caplog.text


async def test_closing_the_server_ends_everything(wire: Any) -> None:
    """Masters are told, handlers end, the port is free, and closing again does no harm."""
    async with serving(wire, hold) as server:
        links = [await dial("127.0.0.1", server.port, secret=wire.secret) for _ in range(3)]
        stranger = socket.create_connection(("127.0.0.1", server.port))
        await until(lambda: len(server.links) == 3 and len(server._shaking) == 1)
        await server.close("rebooting")
        for link in links:
            with pytest.raises(ConnectionLostError, match="rebooting"):
                await link.receive()
            await link.close("")
            await link.close("")
        with pytest.raises(ConnectionLostError):
            await dial("127.0.0.1", server.port, secret=wire.secret)
        stranger.close()
        assert server.links == []


async def test_closing_does_not_wait_for_ever_for_a_peer_that_reads_nothing(wire: Any) -> None:
    """A body is stuck in a socket nobody reads: close gives up after its time and frees the sender."""
    async with serving(wire, hold, settings=replace(QUICK, dead_after_s=60.0)) as server:
        master = await asyncio.to_thread(shaken_socket, wire, server.port)
        await until(lambda: bool(server.links))
        (link,) = server.links
        data = bytes(64_000_000)
        sending = asyncio.create_task(link.send(m.Result("r", 0, 0, 0, [], [], tensor(len(data))), [data]))
        await until(lambda: link.connection.sending_body)
        await link.close("enough")
        with pytest.raises(ConnectionLostError, match="enough"):
            await sending
        master.close()


async def test_a_cancelled_send_leaves_the_link_whole(wire: Any) -> None:
    """Cancelled before its turn a message is not sent; cancelled in its body it is finished; the rest goes on."""
    async with linked(wire, echo) as link:
        data = bytes(8_000_000)
        first = asyncio.create_task(link.send(m.Shard("run", 1, tensor(len(data))), [data]))
        await until(lambda: link.connection.sending_body)
        second = asyncio.create_task(link.send(m.Shard("run", 2, tensor(3)), [b"two"]))
        await asyncio.sleep(0)
        first.cancel()
        second.cancel()
        await asyncio.wait([first, second])
        await link.send(m.Shard("run", 3, tensor(5)), [b"three"])
        assert len((await link.receive())[1][0]) == 8_000_000
        assert bytes((await link.receive())[1][0]) == b"three"
