"""The samples of many clients at one local step: the same samples, in the same order, as each has alone.

Which samples is found for all clients at once; the samples themselves are gathered when they are asked for, a few
clients at a time where the work can then be done while they are in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from compressors.compressor import placed
from fl_core.estimators import Estimator
from fl_core.execution.fused_functions import CannotFuseError
from fl_core.shards import Ints, Pair, Shards


class Scratch:
    """Memory that is used again and again: fresh pages cost more than what is written into them."""

    def __init__(self) -> None:
        self._flat: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}
        self._kept: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}  # as it was last asked for

    def pair(self, like: Pair, count: int) -> Pair:
        """Inputs and targets `[count, …]` of the types and row shapes of `like`; the next call takes them back."""
        return self.rows("inputs", like[0], count), self.rows("targets", like[1], count)

    def rows(self, name: str, like: Tensor, count: int) -> Tensor:
        """`[count, …]` of the type and row shape of `like` `[n, …]`."""
        key = (name, like.dtype, like.device)
        kept = self._kept.get(key)
        if kept is not None and kept.shape[0] >= count and kept.shape[1:] == like.shape[1:]:
            return kept if kept.shape[0] == count else kept[:count]
        shape = (count, *like.shape[1:])
        size = math.prod(shape)
        flat = self._flat.get(key)
        if flat is None or flat.numel() < size:
            flat = self._flat[key] = torch.empty(size, dtype=like.dtype, device=like.device)
        found = self._kept[key] = flat[:size].view(shape)
        return found


@dataclass(frozen=True, eq=False)
class Batch:
    """Batches of `size` samples each: of which clients (their rows, ascending), and where the samples are.

    Attributes:
        source: all samples `[n, …]` and their targets; or one such pair a client, with only its own.
        index: which of them, back to back; None: all, in a source `[G, size, …]`, or of each client.
        by_client: the rows of the source are whole clients, `[n, size, …]`.
    """

    rows: Sequence[int]
    size: int
    source: Pair | list[Pair]
    index: Tensor | None
    by_client: bool = False

    def part(self, first: int, last: int, scratch: Scratch | None = None) -> Pair:
        """Inputs `[r, size, …]` and targets `[r, size, …]` of the batches first … last-1.

        Args:
            scratch: where to put what has to be gathered; None: in memory of its own.
        """
        if isinstance(self.source, list):
            return self._part_of_each(self.source[first:last], first, scratch or Scratch())
        inputs, targets = self.source
        if self.index is None:
            return inputs[first:last], targets[first:last]
        count, each = last - first, 1 if self.by_client else self.size
        x, y = (scratch or Scratch()).pair(self.source, count * each)
        index = self.index if count == len(self.rows) else self.index[first * each : last * each]
        torch.index_select(inputs, 0, index, out=x)
        torch.index_select(targets, 0, index, out=y)
        if self.by_client:
            return x, y
        return x.view(count, self.size, *x.shape[1:]), y.view(count, self.size, *y.shape[1:])

    def _part_of_each(self, pairs: list[Pair], first: int, scratch: Scratch) -> Pair:
        x, y = scratch.pair(pairs[0], len(pairs) * self.size)
        x, y = x.view(-1, self.size, *x.shape[1:]), y.view(-1, self.size, *y.shape[1:])
        if self.index is None:
            torch.stack([inputs for inputs, _ in pairs], out=x)
            torch.stack([targets for _, targets in pairs], out=y)
            return x, y
        for (inputs, targets), chosen, into, beside in zip(
            pairs, self.index[first : first + len(pairs)].unbind(), x.unbind(), y.unbind(), strict=True
        ):
            torch.index_select(inputs, 0, chosen, out=into)
            torch.index_select(targets, 0, chosen, out=beside)
        return x, y

    @cached_property
    def pair(self) -> Pair:
        """Inputs and targets of all of them."""
        return self.part(0, len(self.rows))

    @property
    def nbytes_each(self) -> int:
        """Bytes of one client's inputs."""
        inputs = self.source[0][0] if isinstance(self.source, list) else self.source[0]
        per_row = inputs.nbytes // max(1, inputs.shape[0])
        # A row of the source is a sample, or a whole client.
        return (
            per_row
            if not isinstance(self.source, list) and (self.by_client or self.index is None)
            else (per_row * self.size)
        )

    @cached_property
    def where(self) -> slice | Ints:
        """The rows, to index an array with."""
        rows = self.rows
        return slice(rows.start, rows.stop) if isinstance(rows, range) else np.asarray(rows)


class Batches:
    """Of a cohort's clients, whose rows are 0 … G-1 in the order given.

    Args:
        m: how many samples each client has.
        key: (seed, round).

    Attributes:
        clients: their ids.
        alike: m of every client, where it is the same; else None.
    """

    def __init__(
        self,
        clients: Ints,
        m: Ints,
        shards: Shards,
        estimator: Estimator,
        key: tuple[int, int],
        device: torch.device,
    ) -> None:
        self.clients: list[int] = clients.tolist()
        self._ids = clients
        self.m = m
        self.alike = int(m[0]) if bool((m == m[0]).all()) else None
        self._shards = shards
        self._estimator = estimator
        self._key = key
        self._device = device
        self._starts = shards.starts(clients)
        # "full", and "minibatch" or "nice" with batches as large as the data: every step sees all samples, as stored.
        kinds = [self.alike] if self.alike is not None else np.unique(m).tolist()
        self._takes_all = estimator.kind != "multi" and all(estimator.size(size) >= size for size in kinds)
        self._epochs: dict[int, tuple[Ints, npt.NDArray[np.bool_]]] = {}
        self._last: tuple[tuple[int, int, int], list[Batch]] | None = None

    def at(self, step: int, first: int, last: int) -> list[Batch]:
        """The batches of rows first … last-1 at a local step, one for each size that occurs."""
        asked = (step, first, last)
        if self._last is None or self._last[0] != asked:
            self._last = (asked, self._chosen(range(first, last), step))
        return self._last[1]

    def full(self, first: int, last: int) -> list[Batch]:
        """All samples of rows first … last-1, one batch for each number of samples that occurs."""
        return self._stored(range(first, last))

    @cached_property
    def _takes(self) -> Ints:
        """Samples in a whole step of each client."""
        if self.alike is not None:
            return np.full(len(self.m), self._estimator.size(self.alike))
        sizes, which = np.unique(self.m, return_inverse=True)
        return np.array([self._estimator.size(size) for size in sizes.tolist()])[which]

    @cached_property
    def _offsets(self) -> Ints:
        """Where each client's part of an epoch's permutations begins."""
        found: Ints = np.cumsum(self.m) - self.m
        return found

    def _chosen(self, rows: range, step: int) -> list[Batch]:
        if self._takes_all:
            return self._stored(rows)
        if self._estimator.kind == "minibatch":
            return self._minibatches(rows, step)
        found: dict[int, list[tuple[Ints, Ints]]] = {}
        here = self.m[rows.start : rows.stop]
        for m in [self.alike] if self.alike is not None else np.unique(here).tolist():
            of = np.arange(rows.start, rows.stop) if self.alike is not None else rows.start + np.flatnonzero(here == m)
            drawn = self._estimator.drawn(m, self._ids[of], self._key, step)
            index = np.tile(np.arange(m), (len(of), 1)) if drawn is None else drawn
            found.setdefault(index.shape[1], []).append((of, index))
        return [self._in_order(parts) for parts in found.values()]

    def _in_order(self, parts: list[tuple[Ints, Ints]]) -> Batch:
        """One batch of rows and their samples `[r, b]`, that come in parts."""
        if len(parts) == 1:
            return self._batch(_range(parts[0][0].tolist()), parts[0][1])
        rows = np.concatenate([of for of, _ in parts])
        ascending = np.argsort(rows)
        index = np.concatenate([index for _, index in parts])[ascending]
        return self._batch(_range(rows[ascending].tolist()), index)

    # --- all samples -----------------------------------------------------------------------------------------------

    def _stored(self, rows: range) -> list[Batch]:
        if self.alike is not None:
            return [self._whole(rows, self.alike)]
        m = self.m[rows.start : rows.stop]
        return [
            self._whole(_range((rows.start + np.flatnonzero(m == size)).tolist()), int(size)) for size in np.unique(m)
        ]

    def _whole(self, rows: Sequence[int], size: int) -> Batch:
        """All samples of clients that have `size` each."""
        if self._starts is None:
            return self._batch(rows, None)
        starts = self._starts[rows.start : rows.stop] if isinstance(rows, range) else self._starts[list(rows)]
        numbers, apart = np.divmod(starts, size)
        if apart.any():
            return self._batch(rows, np.tile(np.arange(size), (len(rows), 1)))
        # Neighbours that have as many, or shards that lie at multiples of it: whole clients are gathered at a time.
        blocks = self._shards.blocks(size, self._device)
        first, last = int(numbers[0]), int(numbers[-1])
        if last - first == len(rows) - 1 and bool((np.diff(numbers) == 1).all()):
            return Batch(rows, size, (blocks[0][first : last + 1], blocks[1][first : last + 1]), None)
        return Batch(rows, size, blocks, placed(torch.from_numpy(numbers), self._device), True)

    # --- slices of permutations ------------------------------------------------------------------------------------

    def _minibatches(self, rows: range, step: int) -> list[Batch]:
        if self.alike is not None:
            place = self._estimator.place(self.alike, step)
            assert place is not None
            order = self._order(place[0], np.arange(rows.start, rows.stop)).reshape(-1, self.alike)
            return [self._placed(rows, order[rows.start : rows.stop, place[1]])]
        m, takes = self.m[rows.start : rows.stop], self._takes[rows.start : rows.stop]
        epochs, positions = np.divmod(step, -(-m // takes))
        begins = positions * takes
        sizes = np.minimum(takes, m - begins)
        found = []
        for size in np.unique(sizes).tolist():
            members = np.flatnonzero(sizes == size)
            of = rows.start + members
            index = begins[members, None] + np.arange(size)
            index += self._begins[of, None]  # of clients that take all they have: as stored
            for epoch in np.unique(epochs[members]).tolist():
                drawn = np.flatnonzero((epochs[members] == epoch) & (takes[members] < m[members]))
                if len(drawn):
                    at = begins[members[drawn], None] + np.arange(size)
                    index[drawn] = self._order(epoch, of[drawn])[self._offsets[of[drawn], None] + at]
            found.append(self._placed(_range(of.tolist()), index))
        return found

    def _order(self, epoch: int, rows: Ints) -> Ints:
        """Each row's samples in an epoch's order, at the row's offset: those of `rows` at least are there.

        They are the numbers of `Estimator.order`, counted from where the row's samples begin.
        """
        if epoch not in self._epochs:
            self._epochs[epoch] = np.empty(int(self.m.sum()), np.int64), np.zeros(len(self.m), np.bool_)
        order, drawn = self._epochs[epoch]
        missing = rows[~drawn[rows]]
        if len(missing):
            m = self.m[missing]
            found = self._estimator.orders(m, self._ids[missing], self._key, epoch)
            found += np.repeat(self._begins[missing], m)
            if len(missing) == len(self.m):  # an epoch that all begin at once
                order[:] = found
            else:
                order[np.repeat(self._offsets[missing] - (np.cumsum(m) - m), m) + np.arange(len(found))] = found
            drawn[missing] = True
        return order

    # --- where they lie --------------------------------------------------------------------------------------------

    @cached_property
    def _begins(self) -> Ints:
        """Where each row's samples begin in the source that `_placed` indexes."""
        return np.zeros(len(self.m), np.int64) if self._starts is None else self._starts

    def _batch(self, rows: Sequence[int], index: Ints | None) -> Batch:
        """The samples that `index` `[r, b]` says, counted within each client's own; None: all of them."""
        if index is None or self._starts is None:
            return self._of_shards(rows, index)
        starts = self._starts[rows.start : rows.stop] if isinstance(rows, range) else self._starts[list(rows)]
        return self._placed(rows, index + starts[:, None])

    def _placed(self, rows: Sequence[int], index: Ints) -> Batch:
        """The samples that `index` `[r, b]` says, counted from `_begins` on."""
        if self._starts is None:
            return self._of_shards(rows, index)
        flat = placed(torch.from_numpy(index.reshape(-1)), self._device)
        return Batch(rows, index.shape[1], self._shards.whole(self._device), flat)

    def _of_shards(self, rows: Sequence[int], index: Ints | None) -> Batch:
        pairs = [self._shards.shard(self.clients[row], self._device) for row in rows]
        if len({inputs.shape[1:] for inputs, _ in pairs}) > 1:
            raise CannotFuseError("the clients' samples have different shapes")
        if index is None:
            return Batch(rows, pairs[0][1].shape[0], pairs, None)
        return Batch(rows, index.shape[1], pairs, placed(torch.from_numpy(np.ascontiguousarray(index)), self._device))


def _range(rows: list[int]) -> Sequence[int]:
    """The same rows, as a range where they are neighbours."""
    return range(rows[0], rows[-1] + 1) if rows[-1] - rows[0] == len(rows) - 1 else rows
