"""TLS 1.3 below a link: whose certificate is taken, what a stranger in the middle gets, and that bytes arrive."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from protocol import Link, LinkSettings, Server, dial, listen
from protocol import messages as m
from protocol.errors import AuthenticationError, ConnectionLostError, InputError, ProtocolError
from protocol.fields import TensorSpec
from protocol.tls import Tls, fingerprint_of, master_tls, parse_fingerprint, worker_tls
from tests.protocol.certificates import Made, made_by_keygen

pytestmark = pytest.mark.net
BRIEF = LinkSettings(handshake_timeout_s=1.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The worker's."""
    return made_by_keygen(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Somebody else's."""
    return made_by_keygen(tmp_path_factory.mktemp("others"))


async def echo(link: Link) -> None:
    """Answer every Shard by a Result with the same buffer."""
    while True:
        message, buffers = await link.receive()
        if isinstance(message, m.Shard):
            await link.send(m.Result("run", 0, 0, 0, [], [], message.tensors), buffers)


@asynccontextmanager
async def serving(wire: Any, tls: Tls | None, settings: LinkSettings = BRIEF) -> AsyncIterator[Server]:
    """A worker's port, closed at the end."""
    settings = replace(settings, tls=tls)
    server = await listen("127.0.0.1", 0, secret=wire.secret, info=lambda: wire.info, on_link=echo, settings=settings)
    try:
        yield server
    finally:
        await server.close()


async def dialled(wire: Any, port: int, tls: Tls | None) -> Link:
    """A master's link."""
    return await dial("127.0.0.1", port, secret=wire.secret, settings=replace(BRIEF, tls=tls))


@pytest.mark.parametrize("known_by", ["fingerprint", "certificate"])
async def test_a_large_body_goes_there_and_back(wire: Any, made: Made, known_by: str) -> None:
    """48 MB each way, heartbeats between; the bytes on the socket are neither those of the body nor many more."""
    trusted = None if known_by == "fingerprint" else made.certificate
    master = master_tls([] if trusted else [made.fingerprint], trusted)
    data = bytes(range(251)) * 190_000
    async with serving(wire, made.worker) as server:
        link = await dialled(wire, server.port, master)
        assert link.peer == wire.info
        await link.send(m.Shard("run", 0, [TensorSpec("x", "uint8", [len(data)])]), [data])
        message, (array,) = await link.receive()
        assert isinstance(message, m.Result)
        assert bytes(array) == data
        assert len(data) < link.bytes_sent < 1.003 * len(data)
        assert len(data) < link.bytes_received < 1.003 * len(data)
        await link.close("enough")


async def test_what_was_sent_before_bye_is_received_before_the_end(wire: Any, made: Made) -> None:
    """Over TLS too a side that leaves is heard to its last word, and the end of the stream alone is no farewell."""
    async with serving(wire, made.worker) as server:
        link = await dialled(wire, server.port, made_master(made))
        await link.send(m.Shard("run", 0, [TensorSpec("x", "uint8", [3])]), [b"abc"])
        assert bytes((await link.receive())[1][0]) == b"abc"
        await server.close("rebooting")
        with pytest.raises(ConnectionLostError, match="left: rebooting"):
            await link.receive()
        await link.close("so be it")


def made_master(made: Made) -> Tls:
    """A master that knows the fingerprint."""
    return master_tls([made.fingerprint], None)


async def test_another_certificate_is_refused_before_the_secret_is_used(wire: Any, made: Made, other: Made) -> None:
    """By fingerprint or by file, the master leaves before it says Hello, and says which option was not met."""
    async with serving(wire, other.worker) as server:
        with pytest.raises(AuthenticationError, match=f"{other.fingerprint}.*--tls-fingerprint"):
            await dialled(wire, server.port, made_master(made))
        with pytest.raises(AuthenticationError, match="certificate verify failed"):
            await dialled(wire, server.port, master_tls([], made.certificate))
        assert server.links == []


async def test_tls_on_one_side_only_is_a_clear_error(wire: Any, made: Made, caplog: pytest.LogCaptureFixture) -> None:
    """Each side says that its options are not those of the other, at once."""
    async with serving(wire, made.worker) as server:
        with pytest.raises(ConnectionLostError, match="--tls-cert"):
            await dialled(wire, server.port, None)
        assert "does not speak TLS and this side does" in caplog.text
    caplog.clear()
    async with serving(wire, None) as server:
        with pytest.raises(AuthenticationError, match="TLS options"):
            await dialled(wire, server.port, made_master(made))
        assert "speaks TLS and this side does not" in caplog.text


async def test_nothing_older_than_tls_1_3(wire: Any, made: Made) -> None:
    """A client that can do no more than 1.2 is refused, and a master refuses a server that can do no more."""
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with serving(wire, made.worker) as server:
        with pytest.raises(OSError):  # SSLError or a reset: the alert may be overtaken
            await asyncio.open_connection("127.0.0.1", server.port, ssl=old)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    old.load_cert_chain(made.certificate, made.key)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0, ssl=old) as listening:
        with pytest.raises(AuthenticationError, match="TLS"):
            await dialled(wire, listening.sockets[0].getsockname()[1], made_master(made))


async def test_a_man_in_the_middle_cannot_pass_the_proofs_on(wire: Any, made: Made, other: Made) -> None:
    """Even a master that takes his certificate: he decrypts and passes all on, and the worker refuses the proof."""
    async with serving(wire, made.worker) as server:
        inward = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        inward.load_cert_chain(other.certificate, other.key)
        outward = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        outward.check_hostname, outward.verify_mode = False, ssl.CERT_NONE
        passed: list[bytes] = []

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while data := await reader.read(65536):
                    passed.append(data)
                    writer.write(data)
            writer.close()

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            onward = await asyncio.open_connection("127.0.0.1", server.port, ssl=outward)
            await asyncio.gather(carry(reader, onward[1]), carry(onward[0], writer))

        async with await asyncio.start_server(relay, "127.0.0.1", 0, ssl=inward) as listening:
            port = listening.sockets[0].getsockname()[1]
            with pytest.raises(AuthenticationError, match="same secret"):
                await dialled(wire, port, made_master(other))
        assert len(passed) >= 3  # Hello, Challenge and Proof went through his hands
        assert server.links == []


async def test_a_stranger_at_a_tls_port_has_as_little_time_and_room(wire: Any, made: Made) -> None:
    """Silent, dripping, or with a hello that never ends: it is out within its time, and is counted at the door."""
    settings = replace(BRIEF, handshake_timeout_s=0.3)
    endless = b"\x16\x03\x01\x40\x00" + b"\x01\x00\xff\xff" + bytes(16380)
    async with serving(wire, made.worker, settings) as server:
        for says in (b"", b"\x16", endless[:-1], endless * 4, b"\x16\x03\x01\x00\x05" + bytes(5)):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(says)
            with suppress(ConnectionError):
                while await asyncio.wait_for(reader.read(100), 5):
                    pass  # an alert, perhaps
            writer.close()
        assert server._gate.waiting == 0


async def test_a_changed_byte_of_ciphertext_ends_the_link(wire: Any, made: Made) -> None:
    """What the record's tag does not vouch for is not decrypted: FrameError, and nothing of it is used."""
    ends: list[Link] = []
    async with serving(wire, made.worker) as server:

        async def spoil(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            onward_reader, onward = await asyncio.open_connection("127.0.0.1", server.port)

            async def back() -> None:
                with suppress(OSError):
                    while data := await onward_reader.read(65536):
                        writer.write(data)
                writer.close()

            returning, total = asyncio.create_task(back()), 0
            with suppress(OSError):
                while data := bytearray(await reader.read(65536)):
                    total += len(data)
                    if total > 1_000_000 and data:
                        data[len(data) // 2] ^= 1
                    onward.write(data)
            onward.close()
            await returning

        async with await asyncio.start_server(spoil, "127.0.0.1", 0) as proxy:
            link = await dialled(wire, proxy.sockets[0].getsockname()[1], made_master(made))
            while not server.links:
                await asyncio.sleep(0)
            ends += server.links
            with suppress(ConnectionLostError):
                await link.send(m.Shard("run", 0, [TensorSpec("x", "uint8", [4_000_000])]), [bytes(4_000_000)])
            with pytest.raises(ProtocolError):
                await link.receive()
            await link.close("over")
    assert "TLS stream is broken" in str(ends[0].over)


def test_files_that_do_not_fit_are_the_users_errors(made: Made, other: Made, tmp_path: Path) -> None:
    """A key of another certificate, one that others can read, no certificate, no fingerprint: one clear sentence."""
    with pytest.raises(InputError, match="no certificate and its key"):
        worker_tls(made.certificate, other.key)
    with pytest.raises(InputError, match="cannot be read"):
        worker_tls(made.certificate, tmp_path / "nowhere")
    with pytest.raises(InputError, match="no certificate and its key"):
        worker_tls(tmp_path / "nowhere", made.key)
    opened = tmp_path / "key"
    opened.write_bytes(made.key.read_bytes())
    opened.chmod(0o640)
    with pytest.raises(InputError, match=f"chmod 600 {opened}"):
        worker_tls(made.certificate, opened)
    with pytest.raises(InputError, match="holds no certificate"):
        master_tls([], made.secret)
    for text in ("", "abc", "00" * 31, "zz" * 32):
        with pytest.raises(InputError, match="64 hexadecimal digits"):
            master_tls([text], None)


def test_a_fingerprint_is_the_sha256_of_the_der(made: Made) -> None:
    """What openssl prints, colons and all, is what we compute and take."""
    pem = made.certificate.read_text()
    expected = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    assert fingerprint_of(pem).hex() == made.fingerprint == expected
    with_colons = ":".join(expected[k : k + 2].upper() for k in range(0, 64, 2))
    assert parse_fingerprint(with_colons) == bytes.fromhex(expected)
    assert made.worker.own == bytes.fromhex(expected)


async def test_a_reset_by_a_refused_stranger_leaves_nothing(wire: Any, made: Made) -> None:
    """Beyond four of one address strangers are cut at once, over TLS as over TCP; when they go a master comes in."""
    async with serving(wire, made.worker) as server:
        strangers = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(6)]
        cut = [stranger for stranger in strangers[4:] if await asyncio.to_thread(_is_cut, stranger)]
        assert len(cut) == 2
        assert server._gate.waiting == 4
        for stranger in strangers:
            stranger.close()
        while server._gate.waiting:
            await asyncio.sleep(0)
        link = await dialled(wire, server.port, made_master(made))
        await link.close("enough")


def _is_cut(stranger: socket.socket) -> bool:
    stranger.settimeout(0.8)  # below the time of a handshake
    try:
        return stranger.recv(1) == b""
    except ConnectionError:
        return True
