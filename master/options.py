"""What the command line of flmaster says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from protocol.tls import Tls


@dataclass(frozen=True)
class MasterOptions:
    """Of one start of the daemon, for all its runs."""

    workers: tuple[str, ...]
    devices: str
    threads_per_device: int | None
    reference: bool
    data_root: Path | None
    runs_dir: Path
    resume: bool
    dashboard: bool
    secret: bytes | None
    lz4: bool
    command_line: tuple[str, ...]
    tls: Tls | None = None
    parallel_runs: int = 1
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    track: tuple[str, ...] = ()
