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
        """Σ_i w_i field_i over the participants (w_i = 1 where no weights are given)."""
        total: Tensor | None = None
        start = 0
        for cohort in self.cohorts:
            rows = cohort.fields[field]
            wide = rows.dtype if rows.dtype in (torch.float32, torch.float64) else torch.float32
            part = torch.zeros(rows.shape[1:], dtype=wide, device=rows.device)
            for row in range(rows.shape[0]):
                part.add_(rows[row], alpha=1.0 if weights is None else weights[start + row])
            start += rows.shape[0]
            total = part if total is None else total.add_(part)
        return torch.zeros_like(self._zero) if total is None else total.to(self.cohorts[0].fields[field].dtype)

    def mean(self, field: str) -> Tensor:
        """(1/|S|) Σ_i field_i."""
        return self.sum(field) / max(1, len(self))

    def weighted_mean(self, field: str, weights: Sequence[float] | None = None) -> Tensor:
        """Σ_i w_i field_i / Σ_i w_i; by default w_i = m_i, the number of samples (equation 2 of arXiv 2202.03099)."""
        w = self.m if weights is None else weights
        return self.sum(field, w) / max(1e-300, float(sum(w)))
