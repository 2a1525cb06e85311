"""`flmaster --spawn N`: loopback workers for the time of the run, each on a free port, all with a one-time secret."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from fl_core.errors import RunError
from protocol.secret import new_secret, write_secret

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
        self._watching: list[asyncio.Task[None]] = []

    async def start(self) -> list[str]:
        """Start them all; their addresses. Raises RunError with the end of a worker's log if one does not start."""
        ports = await asyncio.gather(*(self._start_one(number, 0) for number in range(self._count)))
        self._watching = [asyncio.create_task(self._keep(k, port)) for k, port in enumerate(ports)]
        return [f"127.0.0.1:{port}" for port in ports]

    async def close(self) -> None:
        """Ask them to leave; do not wait long."""
        for watching in self._watching:
            watching.cancel()
        for process in self._processes.values():
            if process.returncode is None:
                process.terminate()
        for process in self._processes.values():
            try:
                async with asyncio.timeout(_LEAVE_S):
                    await process.wait()
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
            with suppress(RunError):  # the log says why; the next attempt may fare better
                await self._start_one(number, port)
            await asyncio.sleep(_RESTART_S)

    async def _start_one(self, number: int, port: int) -> int:
        log = self._log_folder / f"worker-{number}.txt"
        with tempfile.TemporaryDirectory(prefix="flspan-") as folder, log.open("ab") as errors:
            secret_file = Path(folder) / "secret"
            write_secret(secret_file, self.secret)  # read at start-up: gone again before the first round
            command = [sys.executable, "-m", "worker.cli", "--port", str(port), "--leave-with-stdin"]
            command += ["--secret-file", str(secret_file), *self._arguments]
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,  # its end tells the worker that we are gone
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for the master, which ends its workers in order
            )
            self._processes[number] = process
            assert process.stdout is not None
            line = b""
            with suppress(TimeoutError):
                async with asyncio.timeout(_START_S):
                    line = await process.stdout.readline()
        if not line.startswith(b"flworker listening on "):
            tail = log.read_text(errors="replace").strip().splitlines()[-3:]
            raise RunError(f"a spawned worker did not start: {' / '.join(tail) or 'no output'} (log: {log})")
        return int(line.decode().rpartition(":")[2])


def _environment() -> dict[str, str]:
    """Ours, with the packages findable from wherever flmaster was started, and no stray option of a daemon."""
    home = str(Path(__file__).resolve().parents[1])
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FLWORKER_")}
    path = kept.get("PYTHONPATH")
    return {**kept, "PYTHONPATH": home if not path else os.pathsep.join((home, path))}
