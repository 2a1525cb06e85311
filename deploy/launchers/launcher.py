"""What all engines have in common: what is asked of them, and what they promise."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from protocol.secret import Secret

EVERYWHERE = "0.0.0.0"
"""Where a worker on another machine listens; its secret guards the door."""


@dataclass(frozen=True)
class LaunchOptions:
    """What `flctl launch` was told.

    Attributes:
        count: workers; 0: as many as the engine suggests (hosts of the file, workers of the Dask cluster, else 1).
        at: the engine's address: a Ray or Dask cluster, or the hosts file of ssh; "" where it knows.
        worker_options: further words of each flworker (`--devices`, `--threads-per-device`, …).
        first_port: worker k listens on first_port + k; 0: on any free port.
        engine_options: words for the engine's own command (ssh, srun).
        flworker: the command on the machines of the engine; "": the installation that runs now, or for ssh the PATH.
        log_folder: where output of workers goes that comes back here.
    """

    count: int
    secret: Secret
    log_folder: Path
    at: str = ""
    worker_options: tuple[str, ...] = ()
    first_port: int = 0
    engine_options: tuple[str, ...] = ()
    cpus: int | None = None
    gpus: int | None = None
    flworker: str = ""

    def words(self, number: int, host: str) -> list[str]:
        """The options of worker `number`. The secret comes on its standard input, whose end makes it leave."""
        port = self.first_port + number if self.first_port else 0
        return ["--spawned", "--host", host, "--port", str(port), *self.worker_options]


class Launcher(Protocol):
    """Places workers on machines. Calls come from one thread, in this order."""

    def start(self) -> None:
        """Ask the engine for the workers, and do not wait. Raises InputError: it cannot be reached, or used so."""

    def addresses(self) -> list[str]:
        """ "host:port" of the workers that listen now; those that ended are asked for again.

        Raises:
            RunError: a worker ends again and again before it listens; the text has the end of its log.
        """

    def stop(self) -> None:
        """End all workers, whatever state they are in; leave nothing behind."""


def local_flworker() -> list[str]:
    """The flworker of the very installation that runs now; a folder named `worker` in the way does not matter."""
    return [sys.executable, "-P", "-m", "worker.cli"]


def clean_environment() -> dict[str, str]:
    """Ours, with the packages findable from wherever this was started, and no stray option of a daemon."""
    home = str(Path(__file__).resolve().parents[2])
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FLWORKER_")}
    path = kept.get("PYTHONPATH")
    return {**kept, "PYTHONPATH": home if not path else os.pathsep.join((home, path))}
