"""A worker as the master sees it: a real port and the real protocol, behind which a test says what happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from protocol import messages
from protocol.errors import ProtocolError
from protocol.fields import WorkerInfo
from protocol.link import Link
from protocol.transport import Server, listen

Behaviour = Callable[["WorkerEnd"], Any]


class WorkerEnd:
    """One link of a scripted worker: what it received, and what it says."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.heard: list[messages.Message] = []
        self.payloads: list[list[bytes]] = []

    async def hear(self, kind: type[messages.Message]) -> Any:
        """The next message, which must be of that kind."""
        message, buffers = await self.link.receive()
        self.heard.append(message)
        self.payloads.append([buffer.tobytes() for buffer in buffers])
        assert isinstance(message, kind), f"a {kind.__name__} was expected, not {message!r:.200}"
        return message

    async def listen_to_the_end(self) -> None:
        """Take whatever comes until the master ends the link."""
        while True:
            await self.link.receive()

    async def say(self, message: messages.Message, buffers: Any = ()) -> None:
        await self.link.send(message, buffers)


@pytest.fixture
def scripted_worker() -> Callable[..., Any]:
    """`async with scripted_worker(behaviour, port=0) as address`: each link is served by `behaviour(end)`.

    An assertion that fails in there fails the test.
    """

    @asynccontextmanager
    async def serving(behaviour: Behaviour, port: int = 0) -> AsyncIterator[str]:
        failed: list[BaseException] = []

        async def on_link(link: Link) -> None:
            try:
                await behaviour(WorkerEnd(link))
            except ProtocolError:
                pass  # the master left
            except AssertionError as error:
                failed.append(error)

        info = WorkerInfo("i", "w", 1, 1, ["cpu"], "2", "3", True)
        server: Server = await listen("127.0.0.1", port, info=lambda: info, on_link=on_link)
        try:
            yield f"127.0.0.1:{server.port}"
        finally:
            await server.close()
            await asyncio.sleep(0)
        if failed:
            raise failed[0]

    return serving
