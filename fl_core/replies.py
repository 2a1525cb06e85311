"""What the server has after a round: the participants' replies, summed in an order that no cluster can change.

Sums run over the clients of a cohort in order, then over the cohorts in order. Cohorts are the experiment's choice, so
whoever computed a cohort, and whenever it arrived, the additions are the same.

Most methods read sums only. Then a cohort's rows are summed where they are computed, and the server holds one vector a
field (`FieldSums`) instead of one a client. What was read is noted; a read that the sums cannot answer raises
`UnreducedError`, the round is run again with all its rows, and the bytes are those of a run that kept them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from compressors.compressor import Layout, zeros
from fl_core.errors import FlspanError
from fl_core.state import fields_of, title, unknown_field
from fl_core.summation import add_row, add_rows, summed, wide_type

Weighting: TypeAlias = Literal["one", "size"]
"""Whose weights a cohort knows by itself: 1, or the clients' numbers of samples."""

WEIGHTINGS: tuple[Weighting, ...] = ("one", "size")

Asked: TypeAlias = Mapping[str, tuple[Weighting, ...]]
"""Of which Reply fields sums are enough, and of which kinds."""

Reads: TypeAlias = set[tuple[str, str]]
"""(field, weighting) pairs that a method has read; "rows" stands for weights of its own, or for the rows themselves."""


class UnreducedError(FlspanError):
    """The method has read of a field what its sums do not tell: the round needs the rows."""


@dataclass(frozen=True)
class CohortReplies:
    """The replies of one cohort.

    Attributes:
        clients: their ids.
        m: their numbers of samples.
        fields: name -> stacked values `[G, …]`; without those of which only sums are kept.
    """

    clients: tuple[int, ...]
    m: tuple[int, ...]
    fields: dict[str, Tensor]


@dataclass(frozen=True)
class FieldSums:
    """What is kept of a field where nobody needs the rows.

    Attributes:
        dtype: of the field.
        totals: weighting -> Σ w_i field_i `[…]`, in the type sums are computed in.
    """

    dtype: torch.dtype
    totals: dict[Weighting, Tensor] = field(default_factory=dict)

    @classmethod
    def checked(cls, dtype: torch.dtype, totals: dict[Weighting, Tensor]) -> FieldSums:
        """Sums that came from elsewhere. Raises ValueError: they are not all of one shape, in the type of sums."""
        first = next(iter(totals.values()))
        for total in totals.values():
            if total.dtype != wide_type(dtype) or total.shape != first.shape or total.numel() < 2:
                raise ValueError(f"{total.dtype} {list(total.shape)} is no sum of {dtype} values like the others")
        return cls(dtype, totals)

    @property
    def row_bytes(self) -> int:
        """Bytes of one reply, as its client would send it."""
        return next(iter(self.totals.values())).numel() * self.dtype.itemsize

    @classmethod
    def zeros(cls, like: Tensor, weightings: Sequence[Weighting]) -> FieldSums:
        """Of no replies yet, each like one row `[…]`."""
        layout = Layout(like.numel(), wide_type(like.dtype), like.device)
        return cls(like.dtype, {kind: zeros((1, layout.d), layout).view(like.shape) for kind in weightings})

    @classmethod
    def of_rows(cls, rows: Tensor, m: Sequence[float], weightings: Sequence[Weighting]) -> FieldSums:
        """Of a cohort's rows `[G, …]`, in order."""
        weights: dict[Weighting, Sequence[float] | None] = {"one": None, "size": m}
        return cls(rows.dtype, {kind: summed([rows], weights[kind]) for kind in weightings})

    def on_cpu(self) -> FieldSums:
        """The same in the host's memory."""
        return FieldSums(self.dtype, {kind: total.cpu() for kind, total in self.totals.items()})

    def add_row(self, row: Tensor, m: int) -> None:
        """One more reply `[…]` of the same cohort: the additions of `of_rows`, one at a time."""
        for kind, total in self.totals.items():
            add_row(total, row, None if kind == "one" else m)

    def add_rows(self, rows: Tensor, m: Sequence[float]) -> None:
        """Those of the next cohort, out of its rows `[G, …]`: `add` of their `of_rows`, piece by piece.

        Raises ValueError: another type or shape than this one's.
        """
        total_shape = next(iter(self.totals.values())).shape
        if rows.dtype != self.dtype or rows.shape[1:] != total_shape:
            raise ValueError(f"{rows.dtype} {list(rows.shape[1:])}, not {self.dtype} {list(total_shape)}")
        for kind, total in self.totals.items():
            add_rows(total, rows, None if kind == "one" else m)

    def add(self, other: FieldSums) -> None:
        """Those of the next cohort. Raises ValueError: another type, shape or kind than this one's."""
        if self.dtype != other.dtype or not self.totals.keys() <= other.totals.keys():
            raise ValueError(
                f"sums of {other.dtype} by {list(other.totals)}, not of {self.dtype} by {list(self.totals)}"
            )
        for kind, total in self.totals.items():
            if total.shape != other.totals[kind].shape:
                raise ValueError(f"sums {list(other.totals[kind].shape)} and {list(total.shape)} of one field")
            total.add_(other.totals[kind])


def reducible(row: Tensor) -> bool:
    """Whether sums of such replies `[…]` are kept in place of rows: vectors, not the odd number beside them."""
    return row.is_floating_point() and row.numel() > 1


def is_worth_reducing(row: Tensor, rows: int, weightings: Sequence[Weighting]) -> bool:
    """Whether so many replies `[…]` are longer than their sums."""
    return reducible(row) and rows * row.element_size() > len(weightings) * wide_type(row.dtype).itemsize


class Replies:
    """All replies of a round. Empty when nobody took part: sums and means are then zero.

    Attributes:
        clients: ids of the participants, in order.
        m: their numbers of samples, the data-size weights.
        reads: what was asked of it so far; lacking: the last question that had no answer.

    Args:
        sums: of the fields that the cohorts' `fields` lack.
    """

    def __init__(
        self, cohorts: Sequence[CohortReplies], zero: Tensor, record: Any, sums: Mapping[str, FieldSums] | None = None
    ) -> None:
        self.clients = tuple(chain.from_iterable(cohort.clients for cohort in cohorts))
        self.m = tuple(chain.from_iterable(cohort.m for cohort in cohorts))
        self.reads: Reads = set()
        self.lacking: UnreducedError | None = None
        self._cohorts = tuple(cohorts)
        self._zero = zero
        self._record = record
        self._sums = sums or {}

    @property
    def cohorts(self) -> tuple[CohortReplies, ...]:
        """The rows themselves, by cohorts."""
        self.reads |= {(name, "rows") for name in fields_of(self._record)} if self._record is not None else set()
        if self._sums:
            raise self._lacking(f"the rows of {', '.join(self._sums)} were summed where they were computed")
        return self._cohorts

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
        return total.to(dtype, copy=field in self._sums)  # the caller's own

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
        """The sum in the type it is computed in, not to be written to, and the type it should have."""
        if weights is not None and len(weights) != len(self):
            raise ValueError(f"{len(weights)} weights for the replies of {len(self)} clients")
        if self._record is not None and field not in self._record.__dataclass_fields__:
            raise AttributeError(unknown_field(self._record, field))
        if not self._cohorts:
            return torch.zeros_like(self._zero), self._zero.dtype
        kind = self._weighting(weights)
        self.reads.add((field, kind))
        if field in self._sums:
            kept = self._sums[field]
            if kind == "rows" or kind not in kept.totals:
                raise self._lacking(f"Reply.{field} was summed where it was computed, but not by these weights")
            return kept.totals[kind], kept.dtype
        stacks = [cohort.fields[field] for cohort in self._cohorts]
        try:
            total = summed(stacks, weights)
        except ValueError as error:
            owner = "Reply" if self._record is None else title(self._record)
            raise ValueError(
                f"{owner}.{field}: the clients of a round must send values of one shape: {error}"
            ) from None
        dtype = stacks[0].dtype
        return total, dtype if dtype.is_floating_point else total.dtype

    def _lacking(self, text: str) -> UnreducedError:
        self.lacking = UnreducedError(text)  # noted, since a method may catch what it does not know
        return self.lacking

    def _weighting(self, weights: Sequence[float] | None) -> Weighting | Literal["rows"]:
        if weights is None:
            return "one"
        return "size" if weights is self.m or tuple(weights) == self.m else "rows"
