"""What clients remember between their rounds, kept at the master and handed out with their tasks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fl_core.state import Number, Zeros, as_tensor, materialize

_CLIENTS = "#clients"  # no field can have this name


class ClientMemories:
    """Memory fields of all clients. A client that has not taken part yet has the declared initial values and no entry.

    Args:
        declared: field -> initial value (`fl_core.state.initial_values`).
    """

    def __init__(self, declared: Mapping[str, Zeros | Number], d: int, dtype: torch.dtype) -> None:
        self._initial = {name: as_tensor(materialize(value, d, dtype)) for name, value in declared.items()}
        self._kept: dict[int, dict[str, Tensor]] = {}

    def gather(self, clients: tuple[int, ...]) -> dict[str, Tensor]:
        """The clients' fields, stacked `[G, …]`; empty while all of them still have the initial values."""
        if not self._initial or not any(i in self._kept for i in clients):
            return {}
        return {
            name: torch.stack([self._kept[i][name] if i in self._kept else start for i in clients])
            for name, start in self._initial.items()
        }

    def commit(self, clients: tuple[int, ...], rows: Mapping[str, Tensor]) -> None:
        """Keep what the clients of a finished round remember now (a copy: the rows' memory is a whole message's)."""
        if not self._initial:
            return
        for row, i in enumerate(clients):
            self._kept[i] = {name: rows[name][row].clone() for name in self._initial}

    def state(self) -> dict[str, Tensor]:
        """Everything, as tensors by name: what a checkpoint keeps."""
        if not self._kept:
            return {}
        clients = tuple(sorted(self._kept))
        return {_CLIENTS: torch.tensor(clients), **self.gather(clients)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` once returned."""
        self._kept = {}
        if state:
            self.commit(tuple(int(i) for i in state[_CLIENTS]), {name: state[name] for name in self._initial})
