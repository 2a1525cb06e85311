"""Run folders: `runs/<name>/<run>/`, what is in them, and whether there is anything left to do.

    experiment.toml    the resolved experiment; written first, so a folder without it is new
    environment.json   versions, devices, git, command line, host: one object a start, the last one last
    metrics.jsonl  events.jsonl  log.txt  checkpoints/  memories.bin  model.safetensors      (written by others)
    summary.json       written last; `reason` "finished" in it means that there is nothing left to do

Files here appear whole or not at all: written beside, fsynced, renamed, and the folder fsynced.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import re
import socket
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeVar

from protocol.errors import InputError, RunError

T = TypeVar("T")
Status = Literal["new", "unfinished", "finished"]
_PACKAGES = ("flspan", "torch", "torchvision", "numpy", "msgpack", "msgspec", "lz4", "scikit-learn")
_SLUG_CHARACTERS = 60
MEMORIES = "memories.bin"
"""The file of a run's folder in which clients' memories lie, where they are not kept in RAM."""


def run_name(label: str, seed: int, digest: str) -> str:
    """`<slug of the label or algorithm>-s<seed>-<digest>`: readable, sortable, and unique by the digest."""
    return f"{slug(label)}-s{seed}-{digest}"


def slug(text: str) -> str:
    """What is left of `text` in a name that every file system and shell takes; "run" if nothing is."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9_]+", "-", plain.lower()).strip("-")[:_SLUG_CHARACTERS].rstrip("-") or "run"


def write_whole(path: Path, content: bytes) -> None:
    """Replace `path` so that a crash at any time leaves the old file or the new one. OSError as it comes."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def writing_runs(runs_dir: Path) -> Iterator[None]:
    """An OSError in here says that it is about the runs folder, and what to do. Raises RunError."""
    try:
        yield
    except OSError as error:
        raise RunError(_unusable(runs_dir, error)) from error


def check_runs_dir(runs_dir: Path) -> None:
    """Raise InputError if nothing can be written there; it is made if need be."""
    beside = runs_dir / f".flspan.{os.getpid()}.tmp"
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_bytes(b"a full disk takes a name, and no byte\n")
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(_unusable(runs_dir, error)) from error


def check_data_root(data_root: Path | None) -> None:
    """Raise InputError if it is given and is no folder."""
    if data_root is not None and not data_root.is_dir():
        what = "is no folder" if data_root.exists() else "does not exist"
        raise InputError(f"--data-root {data_root} {what}: name the folder that the data sets lie in, or leave it out")


def _unusable(runs_dir: Path, error: OSError) -> str:
    why = {
        errno.ENOSPC: "the disk is full; make room there, or",
        errno.EDQUOT: "the disk quota is used up; make room there, or",
        errno.EROFS: "the file system is read-only;",
        errno.EACCES: "this user may not write there;",
        errno.EPERM: "this user may not write there;",
        errno.EEXIST: "it is no folder;",
        errno.ENOTDIR: "it, or what it should lie in, is no folder;",
    }.get(error.errno or 0, f"{error.strerror or error};")
    name = Path(str(error.filename or runs_dir))
    at = "" if name == runs_dir or name.suffix == ".tmp" else f" (at {name})"
    return f"the runs folder {runs_dir}{at} cannot be written: {why} name another with --runs-dir"


def environment(command_line: Sequence[str], devices: Sequence[str]) -> dict[str, Any]:
    """What this start runs on, for environment.json. Nothing of the shell's environment is in it."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": socket.gethostname(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name)) is not None},
        "devices": list(devices),
        "folder": str(Path.cwd()),
        "git": git_state(Path.cwd()),
        "executable": sys.executable,
        "command_line": list(command_line),
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the work tree that `folder` is in, and whether it has changes; None outside of one."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "changed": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


@dataclass(frozen=True)
class RunFolder:
    """One run's folder. Making the object touches nothing; `open` makes the folder."""

    path: Path

    @classmethod
    def at(cls, runs: Path, name: str, run: str) -> RunFolder:
        """The folder of `run` of the experiment `name` under `runs`; it need not be there yet."""
        return cls(runs / slug(name) / run)

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints live."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """metrics.jsonl."""
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """events.jsonl."""
        return self.path / "events.jsonl"

    @property
    def log(self) -> Path:
        """log.txt."""
        return self.path / "log.txt"

    @property
    def model(self) -> Path:
        """model.safetensors."""
        return self.path / "model.safetensors"

    def status(self) -> Status:
        """Whether there is anything left to do. InputError: summary.json is no JSON object."""
        if not (self.path / "experiment.toml").exists():
            return "new"
        summary = self.summary()
        return "finished" if summary is not None and summary.get("reason") == "finished" else "unfinished"

    def open(self, experiment_toml: str, started: Mapping[str, Any]) -> RunLock:
        """Make the folder, or take up one that is there; nobody else can until the lock is closed.

        `experiment_toml` is the resolved experiment, `started` what `environment` says of this start.
        InputError: another process holds the folder, or it holds another experiment.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = RunLock(self.path)
        try:
            self._keep_experiment(experiment_toml)
            self.checkpoints.mkdir(exist_ok=True)
            before = self._read_json("environment.json", list) or []
            self._write_json("environment.json", [*before, dict(started)])
        except BaseException:
            lock.close()
            raise
        return lock

    def begin_anew(self) -> None:
        """Remove what a later start would go on from, before anything of a new run is written.

        Killed anywhere in here, it holds the old run, or nothing of one: it is unfinished before its checkpoints go,
        and these are gone before what they count on. Logs are added to, and how machines fuse (execution.json) changes
        no number: they stay.
        """
        unlink(self.path, "summary.json")
        unlink(self.checkpoints, "*round-*")
        unlink(self.path, MEMORIES, self.metrics.name, self.model.name)

    def experiment(self) -> str:
        """The resolved experiment as TOML. FileNotFoundError: the folder is new."""
        return (self.path / "experiment.toml").read_text(encoding="utf-8")

    def environments(self) -> list[dict[str, Any]]:
        """One entry a start, oldest first."""
        return self._read_json("environment.json", list) or []

    @property
    def execution(self) -> Path:
        """By machine, whether clients were fused there (`observers/execution_record.py`)."""
        return self.path / "execution.json"

    def summary(self) -> dict[str, Any] | None:
        """summary.json; None until the run ended once."""
        return self._read_json("summary.json", dict)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Say how the run ended; `reason` is "finished", "stopped" or "failed"."""
        self._write_json("summary.json", dict(summary))

    def _keep_experiment(self, experiment_toml: str) -> None:
        path = self.path / "experiment.toml"
        if not path.exists():
            write_whole(path, experiment_toml.encode())
        elif path.read_bytes() != experiment_toml.encode():
            raise InputError(
                f"{path} is not the experiment that is to run here: it was edited, or written by another "
                "version of flspan; move this run folder away to start anew"
            )

    def _read_json(self, name: str, kind: type[T]) -> T | None:
        path = self.path / name
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:  # bad JSON or bad UTF-8
            raise InputError(f"{path} cannot be read: {error}; move it away to go on") from error
        if not isinstance(content, kind):
            raise InputError(f"{path} does not hold what it should; move it away to go on")
        return content

    def _write_json(self, name: str, content: object) -> None:
        write_whole(self.path / name, (json.dumps(content, indent=2) + "\n").encode())


def machine_of(executor: str) -> str:
    """Executors of one machine choose alike: a worker's host, or "local"."""
    return executor.rpartition(":")[0] or executor


class RunLock:
    """Holds a run folder for this process; the kernel lets go when the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        self._descriptor: int | None = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise InputError(f"another flmaster is writing to {folder}; stop it, or use --runs-dir") from error

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go. Twice is once."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def unlink(folder: Path, *patterns: str) -> None:
    """Remove the files that match, so that they stay removed. OSError as it comes."""
    found = [path for pattern in patterns for path in sorted(folder.glob(pattern), reverse=True)]
    for path in found:
        path.unlink(missing_ok=True)
    if found:
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Return when the names in it are on the disk as they are now."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
