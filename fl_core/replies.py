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

import numpy as np
import torch
from torch import Tensor

from compressors.compressor import Layout, empty
from fl_core.errors import FlspanError
from fl_core.state import fields_of

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
            if total.dtype != _wide(dtype, None) or total.shape != first.shape or total.numel() < 2:
                raise ValueError(f"{total.dtype} {list(total.shape)} is no sum of {dtype} values like the others")
        return cls(dtype, totals)

    @property
    def row_bytes(self) -> int:
        """Bytes of one reply, as its client would send it."""
        return next(iter(self.totals.values())).numel() * self.dtype.itemsize

    @classmethod
    def zeros(cls, like: Tensor, weightings: Sequence[Weighting]) -> FieldSums:
        """Of no replies yet, each like one row `[…]`."""
        wide = _wide(like.dtype, None)
        return cls(like.dtype, {kind: torch.zeros(like.shape, dtype=wide, device=like.device) for kind in weightings})

    @classmethod
    def of_rows(cls, rows: Tensor, m: Sequence[int], weightings: Sequence[Weighting]) -> FieldSums:
        """Of a cohort's rows `[G, …]`, in order."""
        weights: dict[Weighting, Sequence[int] | None] = {"one": None, "size": m}
        return cls(rows.dtype, {kind: _added([rows], weights[kind]) for kind in weightings})

    def add_row(self, row: Tensor, m: int) -> None:
        """One more reply `[…]` of the same cohort: the additions of `of_rows`, one at a time."""
        flat = row.reshape(-1)
        for kind, total in self.totals.items():
            for left in range(0, len(flat), _BLOCK):  # piece by piece, as there: a product may be rounded or not
                part, piece = total.view(-1)[left : left + _BLOCK], flat[left : left + _BLOCK]
                if kind == "size" and len(piece) <= _SHORT:
                    part.add_(piece.to(part.dtype) * m)
                else:
                    part.add_(piece, alpha=1 if kind == "one" else m)

    def add_rows(self, rows: Tensor, m: Sequence[int]) -> None:
        """Those of the next cohort, out of its rows `[G, …]`: `add` of their `of_rows`, piece by piece.

        Raises ValueError: another type or shape than this one's.
        """
        total_shape = next(iter(self.totals.values())).shape
        if rows.dtype != self.dtype or rows.shape[1:] != total_shape:
            raise ValueError(f"{rows.dtype} {list(rows.shape[1:])}, not {self.dtype} {list(total_shape)}")
        flat = rows.reshape(rows.shape[0], -1)
        for kind, total in self.totals.items():
            weights, sums = None if kind == "one" else m, total.view(-1)
            for left in range(0, len(sums), _BLOCK):
                piece = slice(left, left + _BLOCK)
                sums[piece].add_(_summed([flat[:, piece]], weights, total.dtype))

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
    return reducible(row) and rows * row.element_size() > len(weightings) * _wide(row.dtype, None).itemsize


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
        total = _added(stacks, weights)
        dtype = stacks[0].dtype
        return total, dtype if dtype.is_floating_point else total.dtype

    def _lacking(self, text: str) -> UnreducedError:
        self.lacking = UnreducedError(text)  # noted, since a method may catch what it does not know
        return self.lacking

    def _weighting(self, weights: Sequence[float] | None) -> Weighting | Literal["rows"]:
        if weights is None:
            return "one"
        return "size" if weights is self.m or tuple(weights) == self.m else "rows"


def _added(stacks: Sequence[Tensor], weights: Sequence[float] | None) -> Tensor:
    """The sum `[…]` over the rows of each stack `[G, …]` in order, then over the stacks in order."""
    wide = _wide(stacks[0].dtype, weights)
    flat = [stack.reshape(stack.shape[0], -1) for stack in stacks]
    d = flat[0].shape[1]
    if d <= _BLOCK:
        total = _summed(flat, weights, wide)
    else:  # in pieces that stay in the cache: each sum is read and written once a client
        total = empty((1, d), Layout(d, wide, flat[0].device))[0]
        for left in range(0, d, _BLOCK):
            piece = slice(left, left + _BLOCK)
            total[piece] = _summed([rows[:, piece] for rows in flat], weights, wide)
    return total.view(stacks[0].shape[1:])


_BLOCK = 1 << 15
"""Numbers of a vector that are summed at a time."""

_SHORT = 1 << 12
"""Numbers of a vector up to which a call costs more than its additions, so that a cohort's rows are summed in one."""


def _summed(stacks: Sequence[Tensor], weights: Sequence[float] | None, wide: torch.dtype) -> Tensor:
    """Over the rows of each stack `[G, d]` in order, then over the stacks in order."""
    total: Tensor | None = None
    start = 0
    for stack in stacks:
        end = start + stack.shape[0]
        part = _of_stack(stack, None if weights is None else weights[start:end], wide)
        start = end
        total = part if total is None else total.add_(part)
    assert total is not None
    return total


def _of_stack(stack: Tensor, weights: Sequence[float] | None, wide: torch.dtype) -> Tensor:
    if stack.device.type == "cpu" and (weights is None or stack.shape[1] <= _SHORT):
        rows = stack.detach().to(wide)
        if weights is not None:
            rows = rows * torch.tensor(weights, dtype=wide).unsqueeze(1)
        if rows.stride(1) != 1 or rows.stride(0) < rows.shape[1]:
            rows = rows.contiguous()
        return torch.from_numpy(_in_order(rows.numpy()))
    part = torch.zeros(stack.shape[1:], dtype=wide, device=stack.device)
    for number, row in enumerate(stack.unbind()):
        part.add_(row, alpha=1 if weights is None else weights[number])
    return part


def _in_order(rows: np.ndarray) -> np.ndarray:
    """Row after row: NumPy adds along an axis that is not the fastest in memory that way, but a single column in pairs.

    Each number is added by itself, so neither threads nor alignment nor where pieces end can show.
    """
    total: np.ndarray
    if rows.shape[1] == 1 and len(rows):
        total = np.add.accumulate(rows, axis=0)[-1] + rows.dtype.type(0)  # 0 + -0 is 0, as in every sum from 0 on
    else:
        total = np.add.reduce(rows, axis=0, initial=0)
    return total


def _wide(dtype: torch.dtype, weights: Sequence[float] | None) -> torch.dtype:
    """What sums of such values are computed in."""
    if not dtype.is_floating_point:
        return torch.int64 if weights is None else torch.float64
    return torch.float64 if dtype == torch.float64 else torch.float32
