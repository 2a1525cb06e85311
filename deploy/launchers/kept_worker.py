"""One worker that is started again whenever it ends: here, or at the far end of a command such as ssh or srun.

The secret goes through the command's standard input, so it is on no disk and no command line; when that input ends,
however this process ends, the worker leaves (`flworker --spawned`). Its first lines of output say where it listens.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from deploy.launchers.launcher import clean_environment
from protocol.errors import RunError
from protocol.secret import Secret

LEAVE_S = 10.0
"""A worker whose input ended and that has not left by then is killed."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""Before a worker is started again; doubled while it ends before it listens."""
GIVES_UP = 3
"""Starts without listening, one after the other, before the first success: the line itself must be wrong."""
LISTENS = "flworker listening on "
NODE = "flspan node "


class KeptWorker:
    """Keeps one worker running.

    Args:
        command: starts it, and stays as long as it runs.
        host: what a master dials; None: the command says it in a line "flspan node HOST" first.
        log: its other output is appended there; None: to our own stderr.
    """

    def __init__(self, command: Sequence[str], secret: Secret, host: str | None, log: Path | None) -> None:
        self._command = list(command)
        self._secret = secret
        self._host = host
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._address: str | None = None
        self._has_listened = False
        self._failures = 0
        self._next_start_s = 0.0

    @property
    def pid(self) -> int | None:
        """Of the command; None while it does not run."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def address(self) -> str | None:
        """Where it listens; None while it does not. Starts it when it is not running and its pause is over.

        Raises:
            RunError: it never listened, and ended for the third time.
        """
        if self._process is not None and self._process.poll() is not None:
            self._note_end(self._process.returncode)
        if self._process is None and time.monotonic() >= self._next_start_s:
            self._start()
        return self._address

    def leave(self) -> None:
        """Let it go, without waiting: its input ends."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()

    def ended(self, deadline_s: float) -> None:
        """Wait for its end until then (of time.monotonic); kill it after that."""
        if self._process is None:
            return
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline_s - time.monotonic()))
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # whatever of its group is left
        self._process.wait()
        self._process = self._address = None

    def _start(self) -> None:
        with self._open_log() as log:
            try:
                self._process = process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=clean_environment(),
                    start_new_session=True,  # Ctrl-C is for whoever keeps it
                )
            except OSError as error:
                raise RunError(f"{self._command[0]} cannot be started: {error.strerror}") from None
        assert process.stdin is not None
        with suppress(OSError):  # it ended at once; the log says why
            process.stdin.write(bytes(self._secret).hex().encode() + b"\n")
            process.stdin.flush()
        threading.Thread(target=self._read, args=(process,), daemon=True).start()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        """To the end of its output, so that it never waits for a reader. Later lines are what a user's code prints."""
        host = self._host
        assert process.stdout is not None
        with process.stdout, self._open_log() as log:
            for line in process.stdout:
                text = line.decode(errors="replace").strip()
                if text.startswith(NODE):
                    host = text.removeprefix(NODE)
                elif text.startswith(LISTENS) and self._address is None and process is self._process:
                    port = text.rpartition(":")[2]
                    self._address = f"[{host}]:{port}" if host and ":" in host else f"{host}:{port}"
                    self._has_listened, self._failures = True, 0
                else:
                    log.write(line)
                    log.flush()

    def _note_end(self, code: int) -> None:
        self.leave()
        self._process = None
        self._failures += 0 if self._address else 1
        self._address = None
        if not self._has_listened and self._failures >= GIVES_UP:
            told = " / ".join(self._tail()) or "it said nothing"
            raise RunError(f"{' '.join(self._command[:3])} … ended {GIVES_UP} times with exit code {code}: {told}")
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** max(0, self._failures - 1))
        self._next_start_s = time.monotonic() + pause_s

    def _tail(self) -> list[str]:
        if self._log is None:
            return []
        return self._log.read_text(errors="replace").strip().splitlines()[-3:]

    def _open_log(self) -> IO[bytes]:
        if self._log is None:
            return os.fdopen(os.dup(2), "wb")
        self._log.parent.mkdir(parents=True, exist_ok=True)
        return self._log.open("ab")


class KeptWorkers:
    """Several of them, as a launcher: what local, ssh and slurm are."""

    def __init__(self, workers: Sequence[KeptWorker]) -> None:
        self.workers = list(workers)

    def start(self) -> None:
        """Start them all."""
        for worker in self.workers:
            worker.address()

    def addresses(self) -> list[str]:
        """Of those that listen."""
        found = [worker.address() for worker in self.workers]
        return [address for address in found if address is not None]

    def stop(self) -> None:
        """All leave at once."""
        deadline_s = time.monotonic() + LEAVE_S
        for worker in self.workers:
            worker.leave()
        for worker in self.workers:
            worker.ended(deadline_s)
