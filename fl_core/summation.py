"""Sums over clients that no cluster can change: each product is rounded, then added to the sum, row after row.

Every sum over replies is made here, whoever makes it: the reference, a worker as its clients finish, the master out of
the bytes that came. Each number is added by itself, so neither threads nor alignment nor where pieces end can show.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from compressors.compressor import Layout, empty

Weights: TypeAlias = Sequence[float]
Numbers: TypeAlias = np.ndarray[Any, Any]

_PIECE = 1 << 15
"""Numbers of a vector that are summed at a time: the sum stays in the cache, read and written once a client."""

_PRODUCTS = 1 << 18
"""Products that are made before they are added: 1 MiB of float32, which stays in the cache."""

_NARROWEST = 1 << 10
"""Of the pieces of that block, however many rows it has: of a narrower one each row is a jump in memory."""


def wide_type(dtype: torch.dtype, weighted: bool = False) -> torch.dtype:
    """What sums of such values are computed in."""
    if not dtype.is_floating_point:
        return torch.float64 if weighted else torch.int64
    return torch.float64 if dtype == torch.float64 else torch.float32


def summed(stacks: Sequence[Tensor], weights: Weights | None) -> Tensor:
    """The sum `[…]` over the rows of each stack `[G, …]` in order, then over the stacks in order.

    Raises ValueError: the stacks' rows differ in shape.
    """
    first = stacks[0]
    for other in stacks[1:]:
        if other.shape[1:] != first.shape[1:]:
            raise ValueError(f"rows {list(first.shape[1:])} and {list(other.shape[1:])} of one sum")
    wide = wide_type(first.dtype, weights is not None)
    d = first.numel() // len(first)
    if d <= _PIECE:
        total = torch.empty(d, dtype=wide, device=first.device)
    else:
        total = empty((1, d), Layout(d, wide, first.device))[0]
    _sum_into(total, stacks, weights, True)
    return total if first.dim() == 2 else total.view(first.shape[1:])


def add_rows(total: Tensor, rows: Tensor, weights: Weights | None) -> None:
    """Add the sum of the rows `[G, …]` to the total `[…]`, without ever holding all of it."""
    _sum_into(total.view(-1), [rows], weights, False)


def add_row(total: Tensor, row: Tensor, weight: float | None) -> None:
    """One more row `[…]` of a stack whose first rows' sum, from zeros on, is in total: what `summed` adds."""
    flat, sums = row.detach().reshape(-1), total.view(-1)
    if total.device.type != "cpu":  # launches cost there, not the cache
        wide = flat.to(total.dtype)
        sums.add_(wide if weight is None else wide * weight)
        return
    for left in range(0, len(flat), _PIECE):
        piece = flat[left : left + _PIECE].to(total.dtype)
        sums[left : left + _PIECE].add_(piece if weight is None else piece * weight)


def _sum_into(total: Tensor, stacks: Sequence[Tensor], weights: Weights | None, anew: bool) -> None:
    """Over the total `[d]`, or (not anew) added to it."""
    flat = [_matrix(stack) for stack in stacks]
    if total.device.type != "cpu":
        _sum_on_device(total, flat, weights, anew)
        return
    rows = [stack.numpy() if stack.dtype == total.dtype else stack for stack in flat]
    sums, factors, block, width = total.numpy(), None, None, _PIECE
    if weights is not None:
        factors = np.array(weights, sums.dtype).reshape(-1, 1)
        most = max(map(len, rows))
        width = max(1, min(len(sums), max(_NARROWEST, _PRODUCTS // most)))
        block = np.empty((most, width), sums.dtype)
    spare = np.empty(min(len(sums), width), sums.dtype)
    with np.errstate(all="ignore"):  # what overflows is inf, as in torch
        for left in range(0, len(sums), width):
            piece, end = sums[left : left + width], 0
            for stack in rows:
                start, end = end, end + len(stack)
                part = stack[:, left : left + width]
                numbers = part if isinstance(part, np.ndarray) else part.to(total.dtype).numpy()
                if factors is not None and block is not None:
                    numbers = np.multiply(numbers, factors[start:end], out=block[: len(part), : len(piece)])
                if anew and start == 0:
                    _in_order(numbers, piece)
                elif len(numbers) == 1:  # 0 + it is itself but for -0, which adds nothing to a sum from 0 on
                    piece += numbers[0]
                else:
                    piece += _in_order(numbers, spare[: len(piece)])


def _matrix(stack: Tensor) -> Tensor:
    """`[G, d]`, for its numbers alone."""
    stack = stack.detach() if stack.requires_grad else stack
    return stack if stack.dim() == 2 else stack.reshape(len(stack), -1)


def _in_order(rows: Numbers, into: Numbers) -> Numbers:
    """Row after row: so NumPy adds along an axis that is not the fastest in memory, but a single column in pairs."""
    if rows.shape[1] == 1 and len(rows):
        np.add(np.add.accumulate(rows, axis=0)[-1], 0, out=into)  # 0 + -0 is 0, as in every sum from 0 on
    else:
        if rows.strides[1] != rows.itemsize or rows.strides[0] < rows.shape[1] * rows.itemsize:
            rows = np.ascontiguousarray(rows)
        np.add.reduce(rows, axis=0, initial=0, out=into)
    return into


def _sum_on_device(total: Tensor, stacks: Sequence[Tensor], weights: Weights | None, anew: bool) -> None:
    if anew:
        total.zero_()
    end = 0
    for stack in stacks:
        start, end = end, end + len(stack)
        part = torch.zeros_like(total)
        for number, row in enumerate(stack.unbind(), start):
            wide = row.to(total.dtype)
            part.add_(wide if weights is None else wide * weights[number])
        total.add_(part)
