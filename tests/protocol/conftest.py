"""Two connections and no socket: what the tests of the protocol share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from protocol import messages as m
from protocol.buffers import Body, pack, unpack
from protocol.connection import Connection, Identity, Received
from protocol.fields import Field, Report, Source, TensorSpec, WorkerInfo
from protocol.frames import Limits
from protocol.states import Role

SECRET = bytes(range(32))
INFO = WorkerInfo("incarnation", "worker", 1, 2, ["cpu"], "2.6", "3.11", True)
NONCE = b"n" * 32
X = TensorSpec("x", "float32", [3, 5])
BYTES_OF_X = np.arange(60, dtype=np.uint8)
PAYLOADS = np.arange(7, dtype=np.uint8)

HANDSHAKE: list[m.Message] = [
    m.Hello(1, "master", NONCE, [], "little"),
    m.Challenge(1, "worker", NONCE, [], "little"),
    m.Proof(NONCE),
    m.Welcome(NONCE, INFO),
]
FROM_MASTER: list[tuple[m.Message, list[np.ndarray]]] = [
    (m.Setup("run", b"{}", [Source("algorithm", "a.py", "00", "x = 1\n")], "11"), []),
    (m.Shard("run", 3, [X]), [BYTES_OF_X]),
    (m.Broadcast("run", 1, "22", {"a": 1, "b": 0.5, "c": True}, [X, X]), [BYTES_OF_X, BYTES_OF_X]),
    (m.Task("run", 1, 2, 0, [4, 5], []), []),
    (m.Task("run", 1, 2, 1, [4, 5], [X]), [BYTES_OF_X]),
    (m.Cancel("run", 1, [(2, 0)]), []),
    (m.Forget("run"), []),
]
FROM_WORKER: list[tuple[m.Message, list[np.ndarray]]] = [
    (m.Ready("run", True), []),
    (
        m.Result("run", 1, 2, 0, [4, 5], [Field("delta", True, 0, [3, 4])], [X], {"loss": [0.1, 0.2]}),
        [PAYLOADS, BYTES_OF_X],
    ),
    (m.Failure("run", 1, 2, 0, Report("ValueError", "no", "a.py", 3, 4, "Traceback")), []),
    (m.Drain(), []),
]
FROM_EITHER: list[tuple[m.Message, list[np.ndarray]]] = [
    (m.Ping(1.0), []),
    (m.Pong(1.0), []),
    (m.Bye("done"), []),
]


class Wire:
    """Makes connections, moves bytes between them, and has a valid example of every message."""

    secret = SECRET
    info = INFO
    handshake = HANDSHAKE
    from_master = FROM_MASTER
    from_worker = FROM_WORKER
    from_either = FROM_EITHER
    identity = Identity(SECRET, (), lambda: INFO)

    def pair(self, limits: Limits | None = None, codecs: tuple[str, ...] = ()) -> tuple[Connection, Connection]:
        """A master's and a worker's connection that have said nothing yet."""
        identity = replace(self.identity, codecs=codecs)
        return Connection(Role.MASTER, identity, limits), Connection(Role.WORKER, identity, limits)

    def opened(self, limits: Limits | None = None, codecs: tuple[str, ...] = ()) -> tuple[Connection, Connection]:
        """The same after the handshake."""
        master, worker = self.pair(limits, codecs)
        self.shake(master, worker)
        assert master.is_open
        assert worker.is_open
        return master, worker

    def shake(self, master: Connection, worker: Connection) -> None:
        """Carry the handshake to its end."""
        while out := master.handshake_bytes():
            assert self.feed(worker, out) == []
            assert self.feed(master, worker.handshake_bytes()) == []

    def feed(self, connection: Connection, data: bytes | memoryview, sizes: Iterable[int] = ()) -> list[Received]:
        """Receive ``data``, cut into runs of ``sizes`` (and then as much as fits)."""
        found: list[Received] = []
        view, cuts = memoryview(data), iter(sizes)
        while view:
            target = connection.receive_buffer()
            size = min(len(target), len(view), next(cuts, len(view)))
            target[:size] = view[:size]
            view = view[size:]
            found += connection.received(size)
        return found

    def bytes_of(self, connection: Connection, message: m.Message, body: Body | list[np.ndarray]) -> bytes:
        """Everything ``connection`` writes to send ``message``."""
        out = bytearray(connection.send(message, body if isinstance(body, Body) else pack(body)))
        while (piece := connection.next_piece()) is not None:
            out += piece[0]
            out += piece[1]
        return bytes(out)

    def split(self, received: Received) -> tuple[m.Message, list[bytes]]:
        """A message and its buffers, to be compared."""
        return received.message, [bytes(part) for part in unpack(received.buffers, received.body)]


@pytest.fixture(scope="session")
def wire() -> Wire:
    """The shared tools."""
    return Wire()
