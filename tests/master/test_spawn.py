"""Workers of this machine for the time of a run: real processes, a secret of their own, and none is left behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from master.spawn import SpawnedWorkers, spawn_arguments
from protocol.errors import AuthenticationError, ProtocolError, RunError
from protocol.link import Link
from protocol.secret import new_secret
from protocol.transport import dial

pytestmark = [pytest.mark.net, pytest.mark.chaos, pytest.mark.timeout(180)]


def lives(pid: int) -> bool:
    """Whether the process is there (and is no zombie)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def dialled(address: str, secret: bytes) -> Link:
    """A link to the worker, as soon as it listens."""
    host, _, port = address.rpartition(":")
    while True:
        try:
            return await dial(host, int(port), secret=secret)
        except AuthenticationError:
            raise
        except ProtocolError:
            await asyncio.sleep(0.01)  # between two attempts


@pytest.fixture
async def spawned(tmp_path: Path) -> AsyncIterator[SpawnedWorkers]:
    """One worker, launched."""
    workers = SpawnedWorkers(1, tmp_path / "logs", ["--devices", "cpu", "--threads-per-device", "2"])
    await workers.launch()
    yield workers
    await workers.close()


async def test_a_spawned_worker_is_there_for_its_master_alone(spawned: SpawnedWorkers, tmp_path: Path) -> None:
    """It serves who holds the secret, which is nowhere to be read; killed, it is back on its port; closed, gone."""
    (address,) = await spawned.addresses()
    (pid,) = spawned.pids
    told = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
    assert bytes(spawned.secret).hex().encode() not in told
    with pytest.raises(AuthenticationError):
        await dialled(address, new_secret())
    link = await dialled(address, spawned.secret)
    assert link.peer is not None
    assert (link.peer.pid, link.peer.slots) == (pid, 2)

    os.kill(pid, 9)
    with pytest.raises(ProtocolError):
        await link.receive()
    again = await dialled(address, spawned.secret)
    assert again.peer is not None
    assert again.peer.pid != pid
    (pid,) = spawned.pids
    assert again.peer.pid == pid

    await spawned.close()
    assert not lives(pid)
    log = (tmp_path / "logs" / "worker-0.txt").read_text(encoding="utf-8")
    assert log.count("slots on cpu") == 2
    assert not re.search(r"[0-9a-f]{64}", log)


async def test_one_that_cannot_start_says_why(tmp_path: Path) -> None:
    """With what its log says, instead of waiting for it."""
    workers = SpawnedWorkers(1, tmp_path, ["--devices", "cuda:99"])
    await workers.launch()
    try:
        with pytest.raises(RunError, match=r"did not start: flworker: --devices cuda:99.*worker-0\.txt"):
            await workers.addresses()
    finally:
        await workers.close()


async def test_closing_at_once_leaves_nobody(tmp_path: Path) -> None:
    """A master whose experiment file is wrong ends before its workers have begun."""
    workers = SpawnedWorkers(2, tmp_path, ["--devices", "cpu"])
    await workers.launch()
    pids = workers.pids
    assert all(lives(pid) for pid in pids)
    await workers.close()
    assert not any(lives(pid) for pid in pids)


async def test_one_that_cannot_be_started_again_is_tried_again(
    spawned: SpawnedWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log's folder is a file for a while: the worker is back once it is a folder again."""
    (address,) = await spawned.addresses()
    (pid,) = spawned.pids
    failed = asyncio.Event()
    launch = spawned._launch

    async def noted(number: int, port: int) -> None:
        try:
            await launch(number, port)
        except FileExistsError:
            (tmp_path / "logs").unlink()
            failed.set()
            raise

    monkeypatch.setattr(spawned, "_launch", noted)
    (tmp_path / "logs").rename(tmp_path / "kept")
    (tmp_path / "logs").touch()
    os.kill(pid, signal.SIGKILL)
    await failed.wait()
    link = await dialled(address, spawned.secret)
    await link.close("seen")


def test_workers_share_the_cores() -> None:
    """Together they use each core once, unless the user says otherwise."""
    cores = len(os.sched_getaffinity(0))
    assert spawn_arguments(1, None, None) == ["--threads-per-device", str(cores)]
    assert spawn_arguments(10 * cores, None, None) == ["--threads-per-device", "1"]
    assert spawn_arguments(2, 3, Path("/data")) == ["--threads-per-device", "3", "--data-root", "/data"]
