"""What clients remember between their rounds, kept at the master and handed out with their tasks.

In RAM, or in a file (`fl_core.memory_file`): `[clients] client_memory`. The numbers are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from fl_core.memory_file import MappedMemories, Place, Snapshot
from fl_core.state import Number, Zeros, as_tensor, materialize

_CLIENTS, _PLACES = "#clients", "#places"  # no field can have these names


@dataclass(frozen=True)
class Remembered:
    """What all clients remember at one moment.

    Attributes:
        tensors: by name, what a checkpoint keeps.
        snapshot: what must be on the disk first, and stay as it is until it is dropped; None where all is in `tensors`.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    snapshot: Snapshot | None = None


class ClientMemories:
    """Memory fields of all clients. A client that has not taken part yet has the declared initial values and no entry.

    Args:
        declared: field -> initial value (`fl_core.state.initial_values`).
        file: where they are kept; in RAM where there is none.
    """

    def __init__(
        self, declared: Mapping[str, Zeros | Number], d: int, dtype: torch.dtype, file: Path | None = None
    ) -> None:
        self._initial = {name: as_tensor(materialize(value, d, dtype)) for name, value in declared.items()}
        self._versions: dict[int, int] = {}
        self._mapped = MappedMemories(file, self._initial) if file is not None and self._initial else None
        self._kept: MutableMapping[int, dict[str, Tensor]] = {} if self._mapped is None else self._mapped

    def gather(self, clients: tuple[int, ...]) -> dict[str, Tensor]:
        """The clients' fields, stacked `[G, …]`; empty while all of them still have the initial values."""
        if not self._initial or not any(i in self._kept for i in clients):
            return {}
        return {
            name: torch.stack([self._kept[i][name] if i in self._kept else start for i in clients])
            for name, start in self._initial.items()
        }

    def versions(self, clients: tuple[int, ...]) -> tuple[int, ...]:
        """The rounds whose commit made the clients' memories; 0 where this process does not know it."""
        return tuple(self._versions.get(i, 0) for i in clients) if self._initial else ()

    def commit(self, clients: tuple[int, ...], rows: Mapping[str, Tensor], round: int = 0) -> None:
        """Keep what the clients of a finished round remember now (a copy: the rows' memory is a whole message's)."""
        if not self._initial:
            return
        self._versions.update(dict.fromkeys(clients, round))
        copied = self._mapped is None
        for row, i in enumerate(clients):
            self._kept[i] = {n: rows[n][row].clone() if copied else rows[n][row] for n in self._initial}

    def state(self) -> Remembered:
        """Everything as it is now; nothing that follows changes it."""
        if not self._kept:
            return Remembered()
        clients = tuple(sorted(self._kept))
        if self._mapped is None:
            return Remembered({_CLIENTS: torch.tensor(clients), **self.gather(clients)})
        snapshot = self._mapped.snapshot()
        places = torch.tensor([snapshot.places[i] for i in clients])
        return Remembered({_CLIENTS: torch.tensor(clients), _PLACES: places}, snapshot)

    def restore(self, state: Mapping[str, Tensor], *older: Mapping[str, Tensor]) -> None:
        """Take back the tensors that `state` once returned; those of `older` ones, oldest first, stay good as well.

        Raises RunError: the file does not hold them any more.
        """
        self._versions.clear()
        if self._mapped is not None:
            self._mapped.adopt(_places(state), *map(_places, older))
            return
        self._kept = {}
        if state:
            clients = tuple(state[_CLIENTS].tolist())
            self.commit(clients, {name: state[name] for name in self._initial})

    def close(self) -> None:
        """Let go of the file, if there is one."""
        if self._mapped is not None:
            self._mapped.close()


def lies_in_a_file(state: Mapping[str, Tensor]) -> bool:
    """Whether what `ClientMemories.state` has returned says where memories lie rather than what they are."""
    return _PLACES in state


def _places(state: Mapping[str, Tensor]) -> dict[int, Place]:
    if not state:
        return {}
    return {i: (row, crc) for i, (row, crc) in zip(state[_CLIENTS].tolist(), state[_PLACES].tolist(), strict=True)}
