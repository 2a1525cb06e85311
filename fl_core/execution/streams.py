"""The random streams of a cohort's clients, each keyed as it is when the client is alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import overload

import torch

from fl_core.randomness import generator


class KeyedGenerators(Sequence[torch.Generator]):
    """One generator a client for one purpose, made when asked for: an operator without randomness asks for none."""

    def __init__(self, seed: int, round: int, clients: Sequence[int], *purpose: int | str) -> None:
        self._made: list[torch.Generator | None] = [None] * len(clients)
        self._clients = clients
        self._make: Callable[[int], torch.Generator] = lambda i: generator(seed, round, i, *purpose)

    def __len__(self) -> int:
        return len(self._made)

    @overload
    def __getitem__(self, row: int) -> torch.Generator: ...

    @overload
    def __getitem__(self, row: slice) -> list[torch.Generator]: ...

    def __getitem__(self, row: int | slice) -> torch.Generator | list[torch.Generator]:
        if isinstance(row, slice):
            return [self[k] for k in range(*row.indices(len(self)))]
        made = self._made[row]
        if made is None:
            made = self._made[row] = self._make(self._clients[row])
        return made

    def __iter__(self) -> Iterator[torch.Generator]:
        return (self[row] for row in range(len(self)))
