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

from fl_core.estimators import Estimator
from fl_core.execution.fused_functions import CannotFuseError
from fl_core.execution.streams import permute, seeds_of
from fl_core.shards import Ints, Pair, Shards


class Scratch:
    """Memory that is used again and again: fresh pages cost more than what is written into them."""

    def __init__(self) -> None:
        self._flat: dict[tuple[str, torch.dtype], Tensor] = {}

    def pair(self, like: Pair, count: int) -> Pair:
        """Inputs and targets `[count, …]` of the types and row shapes of `like`; the next call takes them back."""
        return self.rows("inputs", like[0], count), self.rows("targets", like[1], count)

    def rows(self, name: str, like: Tensor, count: int) -> Tensor:
        """`[count, …]` of the type and row shape of `like` `[n, …]`."""
        shape = (count, *like.shape[1:])
        size = math.prod(shape)
        flat = self._flat.get((name, like.dtype))
        if flat is None or flat.numel() < size or flat.device != like.device:
            flat = self._flat[name, like.dtype] = torch.empty(size, dtype=like.dtype, device=like.device)
        return flat[:size].view(shape)


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
        index = self.index[first * each : last * each]
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
        self._epochs: dict[int, tuple[Ints, list[Tensor], npt.NDArray[np.bool_]]] = {}
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
        by_size: dict[int, tuple[list[int], list[Tensor]]] = {}
        for row in rows:
            m = int(self.m[row])
            found = self._estimator.indices(m, (*self._key, self.clients[row]), step)
            chosen = torch.arange(m) if found is None else found
            members, indices = by_size.setdefault(len(chosen), ([], []))
            members.append(row)
            indices.append(chosen)
        return [self._batch(_range(members), torch.stack(found).numpy()) for members, found in by_size.values()]

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
        inputs, targets = self._shards.whole(self._device)
        starts = self._starts[rows.start : rows.stop] if isinstance(rows, range) else self._starts[list(rows)]
        if (starts % size).any():
            return self._batch(rows, np.broadcast_to(np.arange(size), (len(rows), size)))
        # Neighbours that have as many, or shards that lie at multiples of it: whole clients are gathered at a time.
        count = inputs.shape[0] // size
        blocks = tuple(part[: count * size].view(count, size, *part.shape[1:]) for part in (inputs, targets))
        first, last = int(starts[0]) // size, int(starts[-1]) // size
        if last - first == len(rows) - 1 and bool((np.diff(starts) == size).all()):
            return Batch(rows, size, (blocks[0][first : last + 1], blocks[1][first : last + 1]), None)
        return Batch(rows, size, (blocks[0], blocks[1]), torch.from_numpy(starts // size).to(self._device), True)

    # --- slices of permutations ------------------------------------------------------------------------------------

    def _minibatches(self, rows: range, step: int) -> list[Batch]:
        if self.alike is not None:
            b = self._estimator.size(self.alike)
            epoch, position = divmod(step, -(-self.alike // b))
            order = self._order(epoch, np.arange(rows.start, rows.stop)).reshape(-1, self.alike)
            return [self._batch(rows, order[rows.start : rows.stop, position * b : (position + 1) * b])]
        m, takes = self.m[rows.start : rows.stop], self._takes[rows.start : rows.stop]
        epochs, positions = np.divmod(step, -(-m // takes))
        begins = positions * takes
        sizes = np.minimum(takes, m - begins)
        found = []
        for size in np.unique(sizes).tolist():
            members = np.flatnonzero(sizes == size)
            index = begins[members, None] + np.arange(size)  # of clients that take all they have: as stored
            for epoch in np.unique(epochs[members]).tolist():
                drawn = np.flatnonzero((epochs[members] == epoch) & (takes[members] < m[members]))
                if len(drawn):
                    of = rows.start + members[drawn]
                    index[drawn] = self._order(epoch, of)[(self._offsets[of, None] + index[drawn])]
            found.append(self._batch(_range((rows.start + members).tolist()), index))
        return found

    def _order(self, epoch: int, rows: Ints) -> Ints:
        """Each row's permutation of its samples in an epoch, at the row's offset: those of `rows` at least are there.

        They are the numbers of `Estimator.order`.
        """
        if epoch not in self._epochs:
            flat = torch.empty(int(self.m.sum()), dtype=torch.int64)
            self._epochs[epoch] = (
                flat.numpy(),
                list(torch.split(flat, self.m.tolist())),
                np.zeros(len(self.m), np.bool_),
            )
        order, parts, drawn = self._epochs[epoch]
        missing = rows[~drawn[rows]].tolist()
        if missing:
            seeds = seeds_of(*self._key, [self.clients[row] for row in missing], "epoch", epoch)
            permute([parts[row] for row in missing], seeds)
            drawn[missing] = True
        return order

    # --- where they lie --------------------------------------------------------------------------------------------

    def _batch(self, rows: Sequence[int], index: Ints | None) -> Batch:
        """The samples that `index` `[r, b]` says, counted within each client's own; None: all of them."""
        if self._starts is None:
            return self._of_shards(rows, index)
        assert index is not None
        starts = self._starts[rows.start : rows.stop] if isinstance(rows, range) else self._starts[list(rows)]
        flat = torch.from_numpy((index + starts[:, None]).reshape(-1)).to(self._device)
        return Batch(rows, index.shape[1], self._shards.whole(self._device), flat)

    def _of_shards(self, rows: Sequence[int], index: Ints | None) -> Batch:
        pairs = [self._shards.shard(self.clients[row], self._device) for row in rows]
        if len({inputs.shape[1:] for inputs, _ in pairs}) > 1:
            raise CannotFuseError("the clients' samples have different shapes")
        if index is None:
            return Batch(rows, pairs[0][1].shape[0], pairs, None)
        return Batch(rows, index.shape[1], pairs, torch.from_numpy(np.ascontiguousarray(index)).to(self._device))


def _range(rows: list[int]) -> Sequence[int]:
    """The same rows, as a range where they are neighbours."""
    return range(rows[0], rows[-1] + 1) if rows[-1] - rows[0] == len(rows) - 1 else rows
