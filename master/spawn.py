"""`flmaster --spawn N`: loopback workers for the time of the run, each on a free port, all with a one-time secret."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path

from protocol.errors import RunError  # not from fl_core: this module must not wait for torch
from protocol.secret import new_secret

_START_S = 60.0
"""A process that has not said its port by then is not going to."""
_LEAVE_S = 5.0
_RESTART_S = 1.0


class SpawnedWorkers:
    """N flworker processes of this machine. They end with this process, however it ends.

    Args:
        count: N.
        log_folder: their logs go there, as worker-0.txt and so on.
        arguments: further arguments of flworker (devices, threads, data root).
    """

    def __init__(self, count: int, log_folder: Path, arguments: list[str]) -> None:
        self.secret = new_secret()
        self._count = count
        self._log_folder = log_folder
        self._arguments = arguments
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def launch(self) -> None:
        """Start the processes, and do not wait: they take as long to import torch as this process does."""
        for number in range(self._count):
            await self._launch(number, 0)

    async def addresses(self) -> list[str]:
        """Where they listen, once they do. Raises RunError with the end of a worker's log if one does not start."""
        ports = await asyncio.gather(*(self._port(number) for number in range(self._count)))
        for number, port in enumerate(ports):
            self._beside(self._keep(number, port))
        return [f"127.0.0.1:{port}" for port in ports]

    async def close(self) -> None:
        """Ask them to leave; do not wait long."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for process in self._processes.values():
            if process.returncode is None:
                process.terminate()
        for process in self._processes.values():
            try:
                async with asyncio.timeout(_LEAVE_S):
                    await process.communicate()  # to the end of its output too: it may be writing
            except TimeoutError:
                process.kill()
                await process.wait()

    @property
    def pids(self) -> list[int]:
        """Of the processes."""
        return [process.pid for process in self._processes.values()]

    async def _keep(self, number: int, port: int) -> None:
        """Start a worker that died anew, on its old port, where its link dials it."""
        while True:
            await self._processes[number].wait()
            # The log, or a shell on this machine, says why; the next attempt may fare better.
            with suppress(RunError, OSError):
                await self._launch(number, port)
                await self._port(number)
            await asyncio.sleep(_RESTART_S)

    async def _launch(self, number: int, port: int) -> None:
        command = [sys.executable, "-m", "worker.cli", "--port", str(port), "--spawned", *self._arguments]
        self._log_folder.mkdir(parents=True, exist_ok=True)
        with self._log(number).open("ab") as errors:
            process = self._processes[number] = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,  # its end tells the worker that we are gone
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for the master, which ends its workers in order
            )
        assert process.stdin is not None
        process.stdin.write(bytes(self.secret).hex().encode() + b"\n")  # so it is on no disk and no command line

    async def _port(self, number: int) -> int:
        """The port a launched worker says it listens on. What it prints later, as a user's code may, is logged."""
        stdout = self._processes[number].stdout
        assert stdout is not None
        line = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(_START_S):
                line = await stdout.readline()
        if not line.startswith(b"flworker listening on "):
            tail = self._log(number).read_text(errors="replace").strip().splitlines()[-3:]
            told = " / ".join(tail) or "no output"
            raise RunError(f"a spawned worker did not start: {told} (log: {self._log(number)})")
        self._beside(self._log_output(stdout, self._log(number)))
        return int(line.decode().rpartition(":")[2])

    async def _log_output(self, output: asyncio.StreamReader, log: Path) -> None:
        with log.open("ab") as file:
            while chunk := await output.read(1 << 16):
                file.write(chunk)
                file.flush()

    def _beside(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _log(self, number: int) -> Path:
        return self._log_folder / f"worker-{number}.txt"


def _environment() -> dict[str, str]:
    """Ours, with the packages findable from wherever flmaster was started, and no stray option of a daemon."""
    home = str(Path(__file__).resolve().parents[1])
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FLWORKER_")}
    path = kept.get("PYTHONPATH")
    return {**kept, "PYTHONPATH": home if not path else os.pathsep.join((home, path))}


def spawn_arguments(count: int, threads_per_device: int | None, data_root: Path | None) -> list[str]:
    """What `count` workers on this machine are told, so that together they use each core once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    arguments = ["--threads-per-device", str(threads_per_device or max(1, cores // count))]
    return [*arguments, "--data-root", str(data_root)] if data_root else arguments
