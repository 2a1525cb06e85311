"""The random streams of a cohort's clients, each keyed as it is when the client is alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import overload

import torch

from fl_core.randomness import Key


def seeds_of(seed: int, round: int, clients: Iterable[int], *purpose: Key) -> list[int]:
    """`fl_core.randomness.seed_of(seed, round, i, *purpose)` of each client i: what their keys share is hashed once."""
    head = hashlib.blake2b(f"int:{seed}\x1fint:{round}\x1fint:".encode(), digest_size=8)
    tail = "".join(f"\x1f{type(part).__name__}:{part}" for part in purpose)
    found = []
    for i in clients:
        hashed = head.copy()
        hashed.update(f"{i}{tail}".encode())
        found.append(int.from_bytes(hashed.digest(), "little"))
    return found


class KeyedGenerators(Sequence[torch.Generator]):
    """One generator a client for one purpose, made when asked for: an operator without randomness asks for none."""

    def __init__(self, seed: int, round: int, clients: Sequence[int], *purpose: Key) -> None:
        self._made: dict[int, torch.Generator] = {}
        self._clients = clients
        self._key = (seed, round)
        self._purpose = purpose

    def __len__(self) -> int:
        return len(self._clients)

    @overload
    def __getitem__(self, row: int) -> torch.Generator: ...

    @overload
    def __getitem__(self, row: slice) -> list[torch.Generator]: ...

    def __getitem__(self, row: int | slice) -> torch.Generator | list[torch.Generator]:
        if isinstance(row, slice):
            return [self[k] for k in range(*row.indices(len(self)))]
        made = self._made.get(row)
        if made is None:
            (bits,) = seeds_of(*self._key, (self._clients[row],), *self._purpose)
            made = self._made[row] = torch.Generator().manual_seed(bits)
        return made
