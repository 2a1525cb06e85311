"""The clients' data in one process: tensors that lie there once, and views of them."""

from __future__ import annotations

import hashlib
import itertools
import threading
from array import array
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fl_core.partitions import Indices, gathered
from fl_core.tensors import bytes_of

Pair = tuple[Tensor, Tensor]
Ints = npt.NDArray[np.int64]


class Shards:
    """Every client's (inputs `[m_i, …]`, targets `[m_i, …]`).

    Either all of them, in two tensors sorted by client so that a shard is a view, or those that a master has sent.
    On another device the tensors are copied once and shared by all its slots.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self._sent: dict[int, Pair] = {}
        self._whole: Pair | None = None
        self._offsets = array("q", [0])
        self._on_device: dict[torch.device, Pair] = {}
        self._blocks: dict[tuple[int, torch.device], Pair] = {}
        self._sent_on_device: dict[tuple[torch.device, int], Pair] = {}
        self._copying = threading.Lock()  # two slots at once would hold two copies

    @classmethod
    def of_clients(cls, clients: Sequence[Pair]) -> Shards:
        """From one pair of tensors a client."""
        shards = cls(len(clients))
        shards._whole = (torch.cat([x for x, _ in clients]), torch.cat([y for _, y in clients]))
        shards._offsets = _offsets([y.shape[0] for _, y in clients])
        return shards

    @classmethod
    def of_partition(cls, samples: Pair, indices: Sequence[Indices] | Sequence[Tensor]) -> Shards:
        """From one set of samples and each client's indices into it."""
        shards = cls(len(indices))
        parts = gathered(indices)
        order = torch.from_numpy(parts.order)
        shards._whole = (samples[0][order], samples[1][order])
        shards._offsets = array("q", parts.offsets.tobytes())
        return shards

    @property
    def complete(self) -> bool:
        """Whether every client's data is here."""
        return self._whole is not None or len(self._sent) == self.n

    @property
    def sent(self) -> list[int]:
        """The clients whose data came one by one."""
        return sorted(self._sent)

    def has(self, i: int) -> bool:
        """Whether client i's data is here."""
        return self._whole is not None or i in self._sent

    def add(self, i: int, shard: Pair) -> None:
        """Take in a shard that was sent."""
        self._sent[i] = shard

    def size(self, i: int) -> int:
        """m_i, the number of client i's samples."""
        if self._whole is not None:
            return self._offsets[i + 1] - self._offsets[i]
        return self._sent[i][1].shape[0]

    def sizes(self, clients: Ints) -> Ints:
        """m_i of several clients."""
        if self._whole is None:
            return np.array([self._sent[i][1].shape[0] for i in clients.tolist()])
        found: Ints = self._bounds[clients + 1] - self._bounds[clients]
        return found

    def starts(self, clients: Ints) -> Ints | None:
        """Where the clients' samples begin in `whole`; None where every shard lies by itself."""
        return None if self._whole is None else self._bounds[clients]

    @cached_property
    def _bounds(self) -> Ints:
        return np.frombuffer(self._offsets, dtype=np.int64)

    def shard(self, i: int, device: torch.device | str = "cpu") -> Pair:
        """Client i's inputs and targets on a device."""
        if isinstance(device, str):
            device = torch.device(device)
        if self._whole is None:
            return self._sent_shard(i, device)
        inputs, targets = self.whole(device)
        a, b = self._offsets[i], self._offsets[i + 1]
        return inputs[a:b], targets[a:b]

    def whole(self, device: torch.device | str = "cpu") -> Pair:
        """All inputs and all targets, sorted by client."""
        assert self._whole is not None, "only a process that holds all the data evaluates on it"
        if isinstance(device, str):
            device = torch.device(device)
        if device.type == "cpu":
            return self._whole
        found = self._on_device.get(device)
        if found is None:
            with self._copying:
                found = self._on_device.get(device)
                if found is None:
                    found = self._on_device[device] = (self._whole[0].to(device), self._whole[1].to(device))
        return found

    def blocks(self, size: int, device: torch.device) -> Pair:
        """`whole` in pieces of so many samples, `[n // size, size, …]`, without the rest: views."""
        key = (size, device)
        if key not in self._blocks:
            whole = self.whole(device)
            count = whole[0].shape[0] // size
            inputs, targets = (each[: count * size].view(count, size, *each.shape[1:]) for each in whole)
            self._blocks[key] = (inputs, targets)
        return self._blocks[key]

    def digest(self) -> str:
        """SHA-256 of the data and of how it is split: equal on two machines exactly when they hold the same shards."""
        assert self._whole is not None
        hashed = hashlib.sha256()
        for tensor in (torch.tensor(self._bounds), *self._whole):
            hashed.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            hashed.update(bytes_of(tensor).data)
        return hashed.hexdigest()

    def _sent_shard(self, i: int, device: torch.device) -> Pair:
        if device.type == "cpu":
            return self._sent[i]
        key = (device, i)
        found = self._sent_on_device.get(key)
        if found is None:
            with self._copying:
                found = self._sent_on_device.get(key)
                if found is None:
                    inputs, targets = self._sent[i]
                    found = self._sent_on_device[key] = (inputs.to(device), targets.to(device))
        return found


def _offsets(sizes: Sequence[int]) -> array[int]:
    """Where each begins, and the end: numbers of eight bytes that are fast to read one by one."""
    return array("q", itertools.accumulate(sizes, initial=0))
