"""Bits counted = bytes sent: `bits_up` against the Result frames that came over the wire, read by a parser of its own.

A proxy between master and worker keeps what the worker sends. Here it is taken apart by the layout that
`protocol.frames` documents, with struct and an untyped msgpack decoder, and by no code of the project.
"""

from __future__ import annotations

import asyncio
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.conftest import Daemons, Process
from tests.system.conftest import MasterHere

pytestmark = [pytest.mark.net, pytest.mark.timeout(300)]
PRELUDE = struct.Struct("<4sBBHIQII")
MESSAGE, PIECE = 1, 2


@pytest.fixture(scope="module")
def worker(module_daemons: Daemons, tmp_path_factory: pytest.TempPathFactory) -> Process:
    """One, for all runs."""
    started = module_daemons.worker(tmp_path_factory.mktemp("elsewhere"))
    module_daemons.listening(started)
    return started


@asynccontextmanager
async def recorded(worker: Process) -> AsyncIterator[tuple[str, bytearray]]:
    """An address that leads to the worker, and what the worker has sent through it so far."""
    sent = bytearray()

    async def forward(source: asyncio.StreamReader, sink: asyncio.StreamWriter, record: bytearray | None) -> None:
        while chunk := await source.read(1 << 16):
            if record is not None:
                record.extend(chunk)
            sink.write(chunk)
            await sink.drain()
        sink.write_eof()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        worker_reader, worker_writer = await asyncio.open_connection("127.0.0.1", worker.port)
        await asyncio.gather(forward(reader, worker_writer, None), forward(worker_reader, writer, sent))
        for stream in (worker_writer, writer):
            stream.close()
            await stream.wait_closed()

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", sent


def frames(stream: bytes) -> list[tuple[dict[str, Any], int]]:
    """Every message of the stream with the bytes of its body, counted in the pieces that came."""
    found: list[tuple[dict[str, Any], int]] = []
    by_number: dict[int, int] = {}
    at = 0
    while at < len(stream):
        magic, version, kind, _, header_bytes, body_bytes, number, _ = PRELUDE.unpack_from(stream, at)
        assert (magic, version) == (b"FLSP", 1)
        at += PRELUDE.size + 4
        if kind == MESSAGE:
            by_number[number] = len(found)
            found.append((msgspec.msgpack.decode(stream[at : at + header_bytes]), 0))
            at += header_bytes
        else:
            assert kind == PIECE
            message, before = found[by_number[number]]
            found[by_number[number]] = (message, before + body_bytes)
            at += body_bytes
    assert at == len(stream)
    return found


def reply_bits(stream: bytes) -> dict[int, int]:
    """Round -> bits of the clients' replies in it: their payloads and plain fields, not their memories.

    Where the worker has added up what a cohort's clients sent whole, each of them sent as much as the sum is long.
    """
    bits: dict[int, int] = defaultdict(int)
    for header, body_bytes in frames(stream):
        message, buffers = header["m"], header.get("b", [])
        assert body_bytes == sum(-(-buffer["nbytes"] // 8) * 8 for buffer in buffers)
        if message["type"] != "Result":
            continue
        names = [field["name"] for field in message["fields"]] + [tensor["name"] for tensor in message["tensors"]]
        coded = len(message["fields"])
        for index, (name, buffer) in enumerate(zip(names, buffers, strict=True)):
            if index < coded or name.startswith("reply/"):
                bits[message["round"]] += 8 * buffer["nbytes"]
        for summed in message.get("sums", []):  # float32, whose sums are as wide as what was added
            assert summed["dtype"] == "float32"
            place = names.index(f"sum/{summed['weightings'][0]}/{summed['name']}")
            bits[message["round"]] += 8 * buffers[place]["nbytes"] * len(message["clients"])
    return bits


@pytest.mark.parametrize("label", ["plain", "stateful"])
@pytest.mark.parametrize("uplink", ["{name='identity'}", "{name='randk', k='10%'}", "{name='natural'}"])
async def test_bits_up_are_the_bytes_that_came(
    worker: Process, master_here: Callable[[], MasterHere], label: str, uplink: str
) -> None:
    """Round by round, for plain and compressed replies, with and without fields and memories beside them."""
    async with recorded(worker) as (address, stream):
        master = master_here().start(label, f"uplink={uplink}", workers=(address,))
        assert await master.ended() == 0
    measured = {line["round"]: line["bits_up"] for line in master.run.metrics if line["round"] > 0}
    came = reply_bits(bytes(stream))
    assert measured == {round: sum(came[r] for r in range(1, round + 1)) for round in (1, 2, 3)}
    bodies = sum(body_bytes for _, body_bytes in frames(bytes(stream)))
    assert bodies < master.run.metrics[-1]["wire_bytes_received"] <= len(stream)


async def test_compression_saves_what_it_says(
    worker: Process, master_here: Callable[[], MasterHere], tmp_path: Path
) -> None:
    """A tenth of the coordinates is a tenth of the payload: their positions are drawn anew by the receiver."""
    bits = []
    for uplink in ("{name='identity'}", "{name='randk', k='10%'}"):
        master = master_here().start("plain", f"uplink={uplink}", workers=(worker.address,))
        assert await master.ended() == 0
        bits.append(master.run.metrics[-1]["bits_up"])
    assert bits[0] == 3 * 8 * 650 * 32
    assert bits[1] == 3 * 8 * 65 * 32
