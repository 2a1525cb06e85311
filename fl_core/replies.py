"""What the server has after a round: the participants' replies, summed in an order that no cluster can change.

Sums run over the clients of a cohort in order, then over the cohorts in order. Cohorts are the experiment's choice, so
whoever computed a cohort, and whenever it arrived, the additions are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class CohortReplies:
    """The replies of one cohort.

    Attributes:
        clients: their ids.
        m: their numbers of samples.
        fields: name -> stacked values `[G, …]`.
    """

    clients: tuple[int, ...]
    m: tuple[int, ...]
    fields: dict[str, Tensor]


class Replies:
    """All replies of a round. Empty when nobody took part: sums and means are then zero.

    Attributes:
        clients: ids of the participants, in order.
        m: their numbers of samples, the data-size weights.
    """

    def __init__(self, cohorts: Sequence[CohortReplies], zero: Tensor, record: Any) -> None:
        self.cohorts = tuple(cohorts)
        self.clients = tuple(i for cohort in cohorts for i in cohort.clients)
        self.m = tuple(m for cohort in cohorts for m in cohort.m)
        self._zero = zero
        self._record = record

    def __len__(self) -> int:
        return len(self.clients)

    def __iter__(self) -> Iterator[Any]:
        """The Reply records one by one, in order."""
        for cohort in self.cohorts:
            for row in range(len(cohort.clients)):
                yield self._record(**{name: stack[row] for name, stack in cohort.fields.items()})

    def sum(self, field: str, weights: Sequence[float] | None = None) -> Tensor:
        """Σ_i w_i field_i over the participants (w_i = 1 where no weights are given), in the field's type.

        An integer field is summed exactly; with weights, in float64.
        """
        total, dtype = self._total(field, weights)
        return total.to(dtype)

    def mean(self, field: str) -> Tensor:
        """(1/|S|) Σ_i field_i."""
        return self._mean(field, None, len(self))

    def weighted_mean(self, field: str, weights: Sequence[float] | None = None) -> Tensor:
        """Σ_i w_i field_i / Σ_i w_i; by default w_i = m_i, the number of samples (equation 2 of arXiv 2202.03099).

        Zero where the weights sum to zero: nobody's reply counts.
        """
        w = self.m if weights is None else weights
        return self._mean(field, w, float(sum(w)))

    def _mean(self, field: str, weights: Sequence[float] | None, by: float) -> Tensor:
        total, dtype = self._total(field, weights)
        # Divided before it is rounded: a float16 sum of many replies overflows where their mean does not.
        wide = total if dtype.is_floating_point else total.double()
        mean = wide / by if by else torch.zeros_like(wide)
        return mean.to(dtype) if dtype.is_floating_point else mean

    def _total(self, field: str, weights: Sequence[float] | None) -> tuple[Tensor, torch.dtype]:
        """The sum in the type it is computed in, and the type it should have."""
        if weights is not None and len(weights) != len(self):
            raise ValueError(f"{len(weights)} weights for the replies of {len(self)} clients")
        if not self.cohorts:
            return torch.zeros_like(self._zero), self._zero.dtype
        stacks = [cohort.fields[field] for cohort in self.cohorts]
        dtype, shape = stacks[0].dtype, stacks[0].shape[1:]
        wide = _wide(dtype, weights)
        flat = [stack.reshape(stack.shape[0], -1) for stack in stacks]
        d = flat[0].shape[1]
        if d <= _BLOCK:
            total = _summed(flat, weights, wide)
        else:  # in pieces that stay in the cache: each sum is read and written once a client
            total = torch.empty(d, dtype=wide, device=flat[0].device)
            for left in range(0, d, _BLOCK):
                piece = slice(left, left + _BLOCK)
                total[piece] = _summed([rows[:, piece] for rows in flat], weights, wide)
        return total.view(shape), dtype if dtype.is_floating_point else wide


_BLOCK = 1 << 15
"""Numbers of a vector that are summed at a time."""


def _summed(stacks: Sequence[Tensor], weights: Sequence[float] | None, wide: torch.dtype) -> Tensor:
    """Over the rows of each stack `[G, d]` in order, then over the stacks in order."""
    total: Tensor | None = None
    start = 0
    for stack in stacks:
        part = torch.zeros(stack.shape[1:], dtype=wide, device=stack.device)
        for number, row in enumerate(stack.unbind(), start):
            part.add_(row, alpha=1 if weights is None else weights[number])
        start += stack.shape[0]
        total = part if total is None else total.add_(part)
    assert total is not None
    return total


def _wide(dtype: torch.dtype, weights: Sequence[float] | None) -> torch.dtype:
    """What sums of such values are computed in."""
    if not dtype.is_floating_point:
        return torch.int64 if weights is None else torch.float64
    return torch.float64 if dtype == torch.float64 else torch.float32
