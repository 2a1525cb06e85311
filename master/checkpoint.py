"""Checkpoints: what a run needs to go on, as one safetensors file (tensors, and a JSON text of numbers). No pickle.

The file's name says after which round it was taken. It appears whole or not at all; the last two are kept, and a name
beyond the last one does not last: what could not be used never counts again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fl_core.memories import ClientMemories, lies_in_a_file
from fl_core.memory_file import Snapshot
from fl_core.server import Server
from fl_core.state import Number
from master.runs import write_whole

_KEPT = 2
_MEMORY = "memory/"


class DamagedError(Exception):
    """A file that is no checkpoint of this run, or not all of it."""


@dataclass(frozen=True)
class Checkpoint:
    """A run after a round.

    Attributes:
        tensors: of the server (`Server.snapshot`) and of the clients' memories.
        numbers: of the server.
        totals: cumulative metrics: oracle_calls, bits_up, bits_down, elapsed_s, ….
        memories: the clients' memories, where a file of their own holds them.
        data_sha256: of the clients' data that it was computed with; empty if nobody has said.
        older: tensors of clients' memories of the one before it, if that is kept and a file of their own holds them.
    """

    tensors: dict[str, Tensor]
    numbers: dict[str, Number]
    totals: dict[str, float]
    memories: Snapshot | None = None
    data_sha256: str = ""
    older: tuple[dict[str, Tensor], ...] = ()

    @property
    def round(self) -> int:
        """After which round it was taken."""
        return int(self.numbers["round"])

    @classmethod
    def take(cls, server: Server, memories: ClientMemories, totals: Mapping[str, float]) -> Checkpoint:
        """Of the run as it stands now; nothing that follows changes it."""
        tensors, numbers = server.snapshot()
        remembered = memories.state()
        tensors |= {_MEMORY + name: value for name, value in remembered.tensors.items()}
        return cls(tensors, numbers, dict(totals), remembered.snapshot)

    def restore(self, server: Server, memories: ClientMemories) -> None:
        """Put server and memories back to where the checkpoint was taken."""
        server.restore({k: t for k, t in self.tensors.items() if not k.startswith(_MEMORY)}, self.numbers)
        memories.restore(self.remembered, *self.older)

    @property
    def remembered(self) -> dict[str, Tensor]:
        """The tensors of the clients' memories."""
        return {k.removeprefix(_MEMORY): t for k, t in self.tensors.items() if k.startswith(_MEMORY)}

    def save(self, folder: Path) -> Path:
        """Write it to the folder, and let go of all but the last two. OSError: the older ones are untouched."""
        try:
            path = self._write(folder)
        except OSError:
            self.let_go()
            raise
        if self.memories is not None:
            self.memories.keep(_KEPT)
        return path

    def let_go(self) -> None:
        """It will not be saved: what it held of the clients' memories may be written over. Twice is once."""
        if self.memories is not None:
            self.memories.drop()

    def _write(self, folder: Path) -> Path:
        if self.memories is not None:
            self.memories.sync()  # before the checkpoint that says where they lie
        path = folder / f"round-{self.round:08d}.safetensors"
        tensors = {name: t.contiguous() for name, t in self.tensors.items()}
        text = json.dumps({"numbers": self.numbers, "totals": self.totals, "data_sha256": self.data_sha256})
        content = safetensors.torch.save(tensors, {"flspan": text})
        digest = hashlib.sha256(content).hexdigest()
        write_whole(path, content)
        write_whole(_digest_path(path), digest.encode())
        keep_two(folder, self.round)
        return path


def load(path: Path) -> Checkpoint:
    """Read a checkpoint. Raises DamagedError: truncated, altered, or something else altogether."""
    try:
        expected = _digest_path(path).read_text().strip()
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != expected:
            raise DamagedError(f"{path} is damaged: its sha256 is not the one that was written with it")
        with safe_open(path, framework="pt") as file:
            text = json.loads((file.metadata() or {})["flspan"])
        tensors = safetensors.torch.load(content)
        return Checkpoint(tensors, text["numbers"], text["totals"], data_sha256=text.get("data_sha256", ""))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{path} cannot be used: {error}") from error


def latest(folder: Path, last_line: int | None = None) -> tuple[Checkpoint | None, list[str]]:
    """The newest sound checkpoint, and what is wrong with those that are newer.

    `last_line` is the round of the last line of metrics.jsonl, where it matters: nothing makes up for missing lines.
    """
    complaints: list[str] = []
    files = _files(folder)
    while files:
        path = files.pop()
        try:
            if last_line is not None and _round_of(path) > last_line:
                raise DamagedError(f"{path} cannot be used: metrics.jsonl ends before its round, at {last_line}")
            found = load(path)
        except DamagedError as error:
            complaints.append(f"{error}; {'the one before is used' if files else 'there is none before it'}")
            continue
        if lies_in_a_file(found.remembered) and files:
            with suppress(DamagedError):
                found = replace(found, older=(load(files[-1]).remembered,))
        return found, complaints
    return None, complaints


def keep_two(folder: Path, newest: int) -> None:
    """Remove all but that of this round and the one before it. OSError as it comes."""
    files = _files(folder)
    kept = [path for path in files if _round_of(path) <= newest][-_KEPT:]
    for path in files:
        if path not in kept:
            path.unlink(missing_ok=True)
            _digest_path(path).unlink(missing_ok=True)


def _files(folder: Path) -> list[Path]:
    found = (path for path in folder.glob("round-*.safetensors") if path.stem.removeprefix("round-").isdecimal())
    return sorted(found, key=_round_of)


def _round_of(path: Path) -> int:
    return int(path.stem.removeprefix("round-"))


def _digest_path(path: Path) -> Path:
    return path.with_suffix(".sha256")
