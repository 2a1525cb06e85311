"""The samples of many clients at one local step, stacked: the same samples, in the same order, as each has alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_core.estimators import Estimator
from fl_core.execution.fused_functions import CannotFuseError
from fl_core.shards import Shards


@dataclass(frozen=True)
class Batch:
    """Batches of one size: of which clients (their rows), inputs `[r, b, …]`, targets `[r, b, …]`."""

    rows: tuple[int, ...]
    inputs: Tensor
    targets: Tensor

    @property
    def size(self) -> int:
        """b."""
        return self.targets.shape[1]


class Batches:
    """Of a cohort's clients, whose rows are 0 … G-1 in the order given.

    Args:
        key: (seed, round).
    """

    def __init__(
        self, clients: Sequence[int], shards: Shards, estimator: Estimator, key: tuple[int, int], device: torch.device
    ) -> None:
        self.m = [shards.size(i) for i in clients]
        self._clients = tuple(clients)
        self._shards = shards
        self._estimator = estimator
        self._key = key
        self._device = device
        self._starts = [shards.start(i) for i in clients]
        # "full", and "minibatch" or "nice" with batches as large as the data: every step sees all samples, as stored.
        self._takes_all = estimator.kind != "multi" and all(estimator.size(m) >= m for m in set(self.m))
        self._orders: dict[tuple[int, int], Tensor] = {}
        self._last: tuple[tuple[int, int, int], list[Batch]] | None = None

    def at(self, step: int, first: int, last: int) -> list[Batch]:
        """The batches of rows first … last-1 at a local step, one for each size that occurs."""
        asked = (step, first, last)
        if self._last is None or self._last[0] != asked:
            self._last = (asked, self._gather(range(first, last), step))
        return self._last[1]

    def full(self, first: int, last: int) -> list[Batch]:
        """All samples of rows first … last-1, one batch for each number of samples that occurs."""
        return self._gather(range(first, last), None)

    def _gather(self, rows: range, step: int | None) -> list[Batch]:
        if step is None or self._takes_all:
            sizes = set(self.m[rows.start : rows.stop])
            if len(sizes) == 1:
                return [self._whole(tuple(rows), sizes.pop())]
        by_size: dict[int, list[tuple[int, Tensor | None]]] = {}
        for row in rows:
            chosen = None if step is None else self._chosen(row, step)
            by_size.setdefault(self.m[row] if chosen is None else len(chosen), []).append((row, chosen))
        return [self._stacked(found) for found in by_size.values()]

    def _chosen(self, row: int, step: int) -> Tensor | None:
        estimator, m = self._estimator, self.m[row]
        key = (*self._key, self._clients[row])
        b = estimator.size(m)
        if estimator.kind != "minibatch" or b >= m:
            return estimator.indices(m, key, step)
        epoch, position = divmod(step, -(-m // b))
        order = self._orders.get((row, epoch))
        if order is None:
            order = self._orders[row, epoch] = estimator.order(m, key, epoch)
        return order[position * b : (position + 1) * b]

    def _stacked(self, found: list[tuple[int, Tensor | None]]) -> Batch:
        rows = tuple(row for row, _ in found)
        if any(self._starts[row] is None for row in rows):
            return self._stacked_shards(rows, found)
        index = torch.stack([torch.arange(self.m[r]) if chosen is None else chosen for r, chosen in found])
        return self._picked(rows, index)

    def _whole(self, rows: tuple[int, ...], size: int) -> Batch:
        """All samples of clients that have `size` each."""
        starts = self._starts[rows[0] : rows[-1] + 1]
        if any(start is None for start in starts):
            return self._stacked_shards(rows, [(row, None) for row in rows])
        begin = starts[0] or 0
        if starts != list(range(begin, begin + size * len(rows), size)):
            return self._picked(rows, torch.arange(size).expand(len(rows), size))
        inputs, targets = self._shards.whole(self._device)  # neighbours: nothing to copy
        end = begin + size * len(rows)
        return Batch(
            rows,
            inputs[begin:end].view(len(rows), size, *inputs.shape[1:]),
            targets[begin:end].view(len(rows), size, *targets.shape[1:]),
        )

    def _picked(self, rows: tuple[int, ...], index: Tensor) -> Batch:
        """The samples that `index` `[r, b]` says, counted within each client's own."""
        inputs, targets = self._shards.whole(self._device)
        starts = torch.tensor([self._starts[row] for row in rows])
        flat = (index + starts.unsqueeze(1)).view(-1).to(self._device)
        shape = (len(rows), index.shape[1])
        return Batch(
            rows,
            inputs.index_select(0, flat).view(*shape, *inputs.shape[1:]),
            targets.index_select(0, flat).view(*shape, *targets.shape[1:]),
        )

    def _stacked_shards(self, rows: tuple[int, ...], found: list[tuple[int, Tensor | None]]) -> Batch:
        pairs = []
        for row, chosen in found:
            inputs, targets = self._shards.shard(self._clients[row], self._device)
            if chosen is not None:
                chosen = chosen.to(self._device)
                inputs, targets = inputs[chosen], targets[chosen]
            pairs.append((inputs, targets))
        if len({inputs.shape for inputs, _ in pairs}) > 1:
            raise CannotFuseError("the clients' samples have different shapes")
        return Batch(rows, torch.stack([x for x, _ in pairs]), torch.stack([y for _, y in pairs]))
