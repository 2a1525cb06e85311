"""What a fused cohort does with ordinary stacked tensors `[r, …]`: oracle calls, compression, and the books."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from compressors.compressor import Encoded
from fl_core.client import LocalWork
from fl_core.execution.fused_batches import Batch, Batches
from fl_core.execution.fused_oracle import StackedOracle
from fl_core.execution.streams import KeyedGenerators
from fl_core.randomness import ClientRandomness
from fl_core.shards import Ints

Floats = npt.NDArray[np.float64]

FEWEST = 7
"""Clients with batches of one shape from which a stack is faster than one call each (break-even measured at 7)."""

_STEPS = 64
"""Local steps whose losses are added up together."""


@dataclass(frozen=True)
class Piece:
    """The messages of one compression by rows first … last-1."""

    first: int
    last: int
    call: int
    encoded: Encoded


class StackedWork:
    """The clients of a cohort, by rows; a method's `first`, `last` say which its stacks `[last - first, …]` are."""

    def __init__(self, oracle: StackedOracle, work: LocalWork, batches: Batches, round: int) -> None:
        clients = self.clients = batches.clients
        self.batches = batches
        self.pieces: list[Piece] = []
        self._seen: list[tuple[Tensor, slice | Ints, int]] = []
        self._stacked = oracle
        self._work = work
        self._round = round
        self._buffers = oracle.fresh_buffers(len(clients))
        self._streams = KeyedGenerators(work.seed, round, clients, "torch")

    def stream(self, row: int) -> torch.Generator:
        """The generator that stands in for torch's global one in this client's code."""
        return self._streams[row]

    def gradient(self, x: Tensor, batches: Sequence[Batch], first: int) -> Tensor:
        """Gradients `[r, d]` at x `[r, d]`, each row on its own samples; x may be one vector for all (stride 0)."""
        if len(batches) == 1:
            return self._asked(x, batches[0])
        g = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        for batch in batches:
            rows = _within(batch.rows, first)
            g[rows] = self._asked(_picked(x, rows), batch)
        return g

    def descend(self, x: Tensor, steps: Iterable[Sequence[Batch]], first: int, lr: float) -> Tensor:
        """Where steps x -= lr ∇ from x `[r, d]` lead, each row on its own samples, in memory of its own."""
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        seen: list[tuple[Batch, Tensor]] = []
        for batches in steps:
            if len(batches) == 1 and self._stacked.can_descend(x, batches[0]):
                seen.append((batches[0], self._stacked.descend(x, batches[0], lr, out)))
            else:
                self._count_steps(seen)
                torch.add(x, self.gradient(x, batches, first), alpha=-lr, out=out)
            if len(seen) == _STEPS:
                self._count_steps(seen)
            x = out
        self._count_steps(seen)
        return out

    def loss(self, x: Tensor, batches: Sequence[Batch], first: int) -> Tensor:
        """Values `[r]` at x `[r, d]`."""
        values = torch.empty(x.shape[0], dtype=x.dtype, device=x.device)
        for batch in batches:
            rows = _within(batch.rows, first)
            buffers = self._picked_buffers(batch.rows)
            values[rows] = self._stacked.value(_picked(x, rows), batch, buffers, self._streams_of(batch))
            self._put_buffers(batch.rows, buffers)
        return values

    def compress(self, v: Tensor, first: int, last: int, call: int) -> Tensor:
        """C(v) of rows first … last-1, `[last - first, d]`; the bytes are kept."""
        generators = KeyedGenerators(self._work.seed, self._round, self.clients[first:last], "compress", call)
        encoded = self._work.compressor.encode(v, generators)
        self.pieces.append(Piece(first, last, call, encoded))
        return encoded.value

    def _asked(self, x: Tensor, batch: Batch) -> Tensor:
        if len(batch.rows) < FEWEST and not self._buffers and not self._stacked.is_chain:
            g, values = self._one_by_one(x, batch)
        else:
            buffers = self._picked_buffers(batch.rows)
            g, values = self._stacked.gradient(x, batch, buffers, self._streams_of(batch))
            self._put_buffers(batch.rows, buffers)
        self._count(values.unsqueeze(0), batch)
        return g

    def _count_steps(self, seen: list[tuple[Batch, Tensor]]) -> None:
        """Local steps of the same rows have cost this `[r, b]`; their books are one piece of work. Empties the list."""
        for _, group in itertools.groupby(seen, lambda step: step[0].size):
            steps = list(group)
            batch = steps[0][0]
            costs = steps[0][1] if len(steps) == 1 else torch.cat([costs for _, costs in steps])
            self._count(self._stacked.means(costs).view(len(steps), -1), batch)
        seen.clear()

    def _count(self, values: Tensor, batch: Batch) -> None:
        """Gradients were asked for on these samples, or on as many in each of several steps: values `[steps, r]`."""
        self._seen.append((values, batch.where, batch.size))

    def books(self) -> tuple[Floats, Ints]:
        """Of each row, as `Client` keeps them: Σ of (a batch's loss × its samples), and the samples of all batches.

        Asked at the end: until then what is on a device stays there.
        """
        losses, samples = np.zeros(len(self.clients)), np.zeros(len(self.clients), np.int64)
        for values, rows, size in self._seen:
            for row in values.double().cpu().numpy() * size:
                losses[rows] += row
            samples[rows] += size * len(values)
        return losses, samples

    def _one_by_one(self, x: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        found = []
        inputs, targets = batch.pair
        for k, row in enumerate(batch.rows):
            with ClientRandomness(self._streams[row]):
                found.append(self._stacked.oracle.gradient(x[k], inputs[k], targets[k]))
        return torch.stack([g for g, _ in found]), torch.stack([value for _, value in found])

    def _streams_of(self, batch: Batch) -> Callable[[int], torch.Generator]:
        return lambda k: self._streams[batch.rows[k]]

    def _picked_buffers(self, rows: Sequence[int]) -> list[Tensor]:
        if len(rows) == len(self.clients):
            return self._buffers
        return [buffer[list(rows)] for buffer in self._buffers]

    def _put_buffers(self, rows: Sequence[int], buffers: list[Tensor]) -> None:
        if buffers is not self._buffers:
            for whole, part in zip(self._buffers, buffers, strict=True):
                whole[list(rows)] = part


def _within(rows: Sequence[int], first: int) -> slice | Tensor:
    """The rows, counted from `first` on, to index a tensor with."""
    return slice(rows.start - first, rows.stop - first) if isinstance(rows, range) else torch.tensor(rows) - first


def _picked(x: Tensor, rows: slice | Tensor) -> Tensor:
    if isinstance(rows, slice):
        return x[rows]
    if x.stride(0) == 0:
        return x[0].expand(len(rows), -1)
    return x.index_select(0, rows.to(x.device))
