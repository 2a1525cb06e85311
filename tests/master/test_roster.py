"""The addresses of --workers, in a file that changes under a master."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fl_core.errors import InputError
from master import events
from master.cluster import Cluster
from master.roster import Roster
from master.worker_link import WorkerLink
from protocol.settings import LinkSettings

pytestmark = pytest.mark.net


def roster(*named: str, told: list[events.Event] | None = None) -> Roster:
    """Of links that nobody runs yet."""
    emit = (told if told is not None else []).append
    cluster = Cluster(emit)
    return Roster(named, lambda address: WorkerLink(cluster, address, None, LinkSettings()), emit)


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop go on until it is true."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_file_is_followed(scripted_worker: Callable[..., Any], tmp_path: Path) -> None:
    """A worker named later is dialled, one taken out is let go of, one that returns is known as the same."""
    told: list[events.Event] = []
    file = tmp_path / "workers"
    file.write_text("# none yet\n")
    found = roster(f"@{file}", told=told)
    assert found.follows_files
    tasks: list[asyncio.Task[None]] = []

    def keep(work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        tasks.append(asyncio.create_task(work))
        return tasks[-1]

    def said(kind: str) -> bool:
        return kind in {type(event).__name__ for event in told}

    async def behaviour(end: Any) -> None:
        await end.listen_to_the_end()

    async with scripted_worker(behaviour) as address:
        running = asyncio.create_task(found.run(keep))
        for text, kind in (
            (f"{address}, 127.0.0.1:1\n", "WorkerJoined"),
            ("127.0.0.1:1 # the other one\n", "WorkerLost"),
            (f"{address}\n", "WorkerReturned"),
        ):
            file.write_text(text)
            found.look_now()
            await until(partial(said, kind))
        assert len(found.links) == 2
        running.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.wait([running, *tasks])


async def test_a_file_that_goes_bad_changes_nothing(tmp_path: Path) -> None:
    """It is said once, and the workers stay; a typing mistake must not end a run."""
    told: list[events.Event] = []
    file = tmp_path / "workers"
    file.write_text("127.0.0.1:1")
    found = roster(f"@{file}", told=told)
    running = asyncio.create_task(found.run(lambda work: asyncio.create_task(work)))
    file.write_text("127.0.0.1")
    found.look_now()

    def warned() -> list[str]:
        return [event.text for event in told if isinstance(event, events.Warned) and "stay as they are" in event.text]

    await until(warned)
    found.look_now()
    await until(lambda: not found._changed.is_set())
    assert len(warned()) == 1
    assert "write host:port" in warned()[0]
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert not running.done() or running.cancelled()


def test_mistakes_are_said_at_once(tmp_path: Path) -> None:
    """An address twice, one that is none, a file that is not there."""
    with pytest.raises(InputError, match="an address is there twice"):
        roster("gpu1:7000", "gpu1:7000")
    with pytest.raises(InputError, match="write host:port"):
        roster("gpu1")
    with pytest.raises(InputError, match="nowhere cannot be read"):
        roster(f"@{tmp_path / 'nowhere'}")
