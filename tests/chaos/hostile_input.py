"""What strangers, and peers that hold the secret and lie, send to a worker's port: one entry a kind."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import lz4.block
import msgspec

from protocol import messages as m
from protocol.connection import Connection, Identity
from protocol.fields import Buffer, TensorSpec
from protocol.frames import MAGIC, VERSION, checksum, message_frame
from protocol.headers import encode_header
from protocol.states import Role

PATIENCE_S = 20.0
LZ4 = ("lz4",)


def forged(header: bytes, header_bytes: int, body_bytes: int, seq: int) -> bytes:
    """A message frame whose checksums are right and whose lengths are lies."""
    fields = struct.pack("<4sBBHIQII", MAGIC, VERSION, 1, 0, header_bytes, body_bytes, seq, checksum(header))
    return fields + struct.pack("<I", checksum(fields)) + header


def hello() -> bytes:
    """A right one."""
    return Connection(Role.MASTER, Identity(b"")).handshake_bytes()


def tls_hello() -> bytes:
    """What a TLS client says first."""
    import ssl

    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    client = context.wrap_bio(incoming, outgoing)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("nobody answered")


def _header(message: m.Message, *buffers: Buffer) -> bytes:
    return encode_header(message, list(buffers))


def _nested(depth: int) -> bytes:
    return b"\x82\xa1m" + b"\x91" * depth + b"\xc0\xa1b\x90"


STRANGERS: dict[str, bytes] = {
    "a body of 2^63": forged(b"", 0, 1 << 63, 0),
    "a body of 2^64 - 1": forged(b"", 0, (1 << 64) - 1, 0),
    "a header of 2^32 - 1": forged(b"", (1 << 32) - 1, 0, 0),
    "a header of the limit + 1": message_frame(bytes((4 << 10) + 1), 0, 0),
    "any body at all": forged(b"", 0, 1, 0),
    "garbage": bytes(range(255, 55, -1)),
    "zeros": bytes(4096),
    "HTTP": b"GET / HTTP/1.1\r\nHost: worker\r\nUser-Agent: scanner\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "version 7": MAGIC + b"\x07" + bytes(27),
    "a prelude with a wrong checksum": hello()[:28] + b"\0\0\0\0",
    "a header with a wrong checksum": hello()[:-1] + b"?",
    "an unknown type": message_frame(msgspec.msgpack.encode({"m": {"type": "Exec", "text": "x"}}), 0, 0),
    "a field too many": message_frame(msgspec.msgpack.encode({"m": {"type": "Proof", "mac": bytes(32), "x": 1}}), 0, 0),
    "a working message": message_frame(_header(m.Setup("r", b"{}", [], "")), 0, 0),
    "a proof before a hello": message_frame(_header(m.Proof(bytes(32))), 0, 0),
    "a wrong number": message_frame(hello()[32:], 0, 5),
    "hello twice": hello() + message_frame(hello()[32:], 0, 1),
    "hello and a false proof": hello() + message_frame(_header(m.Proof(bytes(32))), 0, 1),
    "a worker's hello": message_frame(_header(m.Challenge(1, "worker", bytes(32), [], "little")), 0, 0),
    "nested 4000 deep": message_frame(_nested(4000), 0, 0),
    "an array of 2^32 - 1": message_frame(b"\x82\xa1m\xdd\xff\xff\xff\xff", 0, 0),
    "a map of 2^32 - 1": message_frame(b"\xdf\xff\xff\xff\xff", 0, 0),
    "a string of 2^32 - 1": message_frame(b"\x81\xa1m\xdb\xff\xff\xff\xff", 0, 0),
    "an endless hello": hello()[:8] + b"\xff\xff\xff\x7f" + hello()[12:] + bytes(60_000),
}
"""Sent whole by somebody without the secret."""


def _shard(buffer: Buffer, nbytes: int, seq: int, body: bytes = b"") -> bytes:
    shard = m.Shard("r", 0, [TensorSpec("x", "uint8", [nbytes])])
    padded = -(-buffer.nbytes // 8) * 8
    data = message_frame(_header(shard, buffer), padded, seq)
    if body:
        body += bytes(padded - len(body))
        fields = struct.pack("<4sBBHIQII", MAGIC, VERSION, 2, 0, 0, len(body), seq, checksum(body))
        data += fields + struct.pack("<I", checksum(fields)) + body
    return data


_BOMB = lz4.block.compress(bytes(200_000), store_size=False)
_PING = message_frame(_header(m.Ping(0.0)), 0, 2)
_FORGET = _header(m.Forget("r"))
_ORPHAN = struct.pack("<4sBBHIQII", MAGIC, VERSION, 2, 0, 0, 8, 2, checksum(bytes(8)))
LIARS: dict[str, tuple[bytes, str]] = {
    "a body of 2^63": (forged(_FORGET, len(_FORGET), 1 << 63, 2), "was announced"),
    "a body of the limit + 1": (_shard(Buffer((64 << 10) + 1, (64 << 10) + 1), (64 << 10) + 1, 2), "was announced"),
    "a header of the limit + 1": (forged(b"", (1 << 20) + 1, 0, 2), "1048577 bytes was announced"),
    "a worker's message": (message_frame(_header(m.Drain()), 0, 2), "may not send Drain"),
    "a handshake again": (
        message_frame(_header(m.Hello(1, "master", bytes(32), [], "little")), 0, 2),
        "no message|not of",
    ),
    "an unknown type": (
        message_frame(msgspec.msgpack.encode({"m": {"type": "Exec", "text": "x"}}), 0, 2),
        "Invalid value 'Exec'",
    ),
    "a NaN": (message_frame(msgspec.msgpack.encode({"m": {"type": "Ping", "t": float("nan")}}), 0, 2), "finite|>= 0"),
    "a million empty maps": (message_frame(b"\x82\xa1m\xdc\xff\xff" + b"\x80" * ((1 << 20) - 64), 0, 2), "Expected"),
    "nested a million deep": (message_frame(_nested((1 << 20) - 64), 0, 2), "Expected|recursion"),
    "a tensor of 2^53": (_shard(Buffer(1 << 53, 1 << 53), 1 << 53, 2), "was announced"),
    "an lz4 bomb above the limit": (_shard(Buffer(len(_BOMB), 200_000, "lz4"), 200_000, 2, _BOMB), "200000 bytes"),
    "an lz4 bomb that says less": (_shard(Buffer(len(_BOMB), 60_000, "lz4"), 60_000, 2, _BOMB), "does not decompress"),
    "lz4 that is none": (_shard(Buffer(1000, 60_000, "lz4"), 60_000, 2, bytes(range(250)) * 4), "does not decompress"),
    "a piece that nobody announced": (_ORPHAN + struct.pack("<I", checksum(_ORPHAN)) + bytes(8), "nobody announced"),
    "a message repeated": (_PING * 2, "message 2 came where 3 was due"),
    "a message left out": (message_frame(_header(m.Ping(0.0)), 0, 3), "message 3 came where 2 was due"),
}
"""Sent by somebody who has done the handshake: the secret alone must not be able to hurt."""


@dataclass(frozen=True)
class Verdict:
    """How a worker took it."""

    answer: bytes
    closed_after_s: float


def connected(port: int) -> socket.socket:
    """A stranger's socket."""
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def shaken(port: int, secret: bytes) -> socket.socket:
    """A socket whose handshake is over, with lz4 agreed on; two messages have been sent on it."""
    sock = connected(port)
    master = Connection(Role.MASTER, Identity(secret, LZ4))
    while not master.is_open:
        sock.sendall(master.handshake_bytes())
        data = sock.recv(4096)
        assert data, "the worker does not let a right master in"
        target = master.receive_buffer()
        target[: len(data)] = data
        master.received(len(data))
    return sock


def verdict(sock: socket.socket, says: bytes, then_ends: bool = False) -> Verdict:
    """Say it, and wait for the connection's end."""
    with sock:
        try:
            sock.sendall(says)
            if then_ends:
                sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # cut off in the middle of it
        start_s = time.perf_counter()
        return Verdict(rest_of(sock), time.perf_counter() - start_s)


def rest_of(sock: socket.socket) -> bytes:
    """What comes until the connection ends."""
    answer = bytearray()
    try:
        while data := sock.recv(65536):
            answer += data
    except ConnectionError:
        pass
    return bytes(answer)


def drip(ports: Iterable[int], count: int) -> list[socket.socket]:
    """Open ``count`` connections that begin a right hello and never end it."""
    ports = list(ports)
    socks = [connected(ports[k % len(ports)]) for k in range(count)]
    for sock in socks:
        sock.setblocking(False)
    return socks


def resident_bytes(pid: int) -> int:
    """Of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
