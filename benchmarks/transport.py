"""Bytes between two processes of this machine: our link against blocking sendmsg and recv_into, alternating."""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import statistics
import struct
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from protocol import messages
from protocol.fields import TensorSpec, WorkerInfo
from protocol.link import Link
from protocol.settings import LinkSettings
from protocol.transport import dial, listen

_INFO = WorkerInfo("bench", "bench", 1, 1, ["cpu"], "2", "3", True)
_SECRET = b"x" * 32
_WINDOW = 8


@dataclass(frozen=True)
class Transport:
    """Of one size of model, and of messages without one. Lags: how late each end's event loop was at most."""

    ours_gb_per_s: float
    blocking_gb_per_s: float
    sender_lag_ms: float
    receiver_lag_ms: float
    round_trip_us: float
    small_per_s: float


def measure(size_bytes: int, repeats: int) -> Transport:
    """Both ways, one after the other."""
    blocking = _blocking(size_bytes, repeats)
    queue: Any = multiprocessing.Queue()
    server = multiprocessing.Process(target=_serve, args=(queue,), daemon=True)
    server.start()
    try:
        seconds, lag_s, trip_s, small = asyncio.run(_client(queue.get(timeout=60), size_bytes, repeats))
        receiver_lag_s = queue.get(timeout=60)
    finally:
        server.terminate()
        server.join()
    return Transport(
        size_bytes / 1e9 / seconds,
        size_bytes / 1e9 / blocking,
        1e3 * lag_s,
        1e3 * receiver_lag_s,
        1e6 * trip_s,
        small,
    )


def _serve(queue: Any) -> None:
    lags: list[float] = []

    async def on_link(link: Link) -> None:
        watch = asyncio.create_task(_lag(lags))
        while True:
            message, _ = await link.receive()
            if isinstance(message, messages.Forget) and not watch.done():  # the large messages are over
                watch.cancel()
                queue.put(max(lags))
            await link.send(messages.Ready("r", True))

    async def main() -> None:
        server = await listen(
            "127.0.0.1", 0, secret=_SECRET, info=lambda: _INFO, on_link=on_link, settings=LinkSettings()
        )
        queue.put(server.port)
        await asyncio.Event().wait()

    asyncio.run(main())


async def _client(port: int, size_bytes: int, repeats: int) -> tuple[float, float, float, float]:
    data = np.random.default_rng(0).integers(0, 255, size_bytes, dtype=np.uint8)
    link = await dial("127.0.0.1", port, secret=_SECRET, settings=LinkSettings())
    message = messages.Broadcast("r", 1, "d", {}, [TensorSpec("x", "uint8", [size_bytes])])
    lags: list[float] = []
    watch = asyncio.create_task(_lag(lags))
    took = []
    for _ in range(repeats):
        before = time.perf_counter()
        await link.send(message, [data])
        await link.receive()
        took.append(time.perf_counter() - before)
    watch.cancel()
    trips = []
    for _ in range(2000):
        before = time.perf_counter()
        await link.send(messages.Forget("r"))
        await link.receive()
        trips.append(time.perf_counter() - before)
    before, count = time.perf_counter(), 10_000
    for number in range(count + _WINDOW):
        if number < count:
            await link.send(messages.Forget("r"))
        if number >= _WINDOW:
            await link.receive()
    small = count / (time.perf_counter() - before)
    await link.close("done")
    return statistics.median(took), max(lags, default=0.0), statistics.median(trips), small


async def _lag(found: list[float]) -> None:
    """How late the event loop is, every 2 ms."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + 0.002
        await asyncio.sleep(0.002)
        found.append(loop.time() - due)


def _blocking(size_bytes: int, repeats: int) -> float:
    """Median seconds of one transfer into fresh memory."""
    queue: Any = multiprocessing.Queue()
    server = multiprocessing.Process(target=_receive, args=(queue, repeats), daemon=True)
    server.start()
    connection = socket.create_connection(("127.0.0.1", queue.get(timeout=60)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    data = np.random.default_rng(0).integers(0, 255, size_bytes, dtype=np.uint8)
    took = []
    for _ in range(repeats):
        before = time.perf_counter()
        parts = [memoryview(struct.pack("<Q", size_bytes)), memoryview(data.data)]
        while parts:
            sent = connection.sendmsg(parts)
            while parts and sent >= len(parts[0]):
                sent -= len(parts.pop(0))
            if parts:
                parts[0] = parts[0][sent:]
        connection.recv(1)
        took.append(time.perf_counter() - before)
    connection.close()
    server.join()
    return statistics.median(took)


def _receive(queue: Any, repeats: int) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    queue.put(listener.getsockname()[1])
    connection, _ = listener.accept()
    for _ in range(repeats):
        (size,) = struct.unpack("<Q", _exactly(connection, 8).data)
        _exactly(connection, size)
        connection.sendall(b"k")


def _exactly(connection: socket.socket, size: int) -> np.ndarray:
    found = np.empty(size, np.uint8)
    rest = memoryview(found.data)
    while rest:
        rest = rest[connection.recv_into(rest) :]
    return found
