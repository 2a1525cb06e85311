"""p-norms of the rows of a stack, in double precision, the same for a row alone as in a stack."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from compressors.compressor import CompressorOptionError, NonFiniteError
from compressors.noise import blocks

Floats = npt.NDArray[np.float64]


def check_order(operator: str, norm: object) -> None:
    """Raise CompressorOptionError unless `norm` is a number >= 1 or "inf"."""
    number = isinstance(norm, int | float) and not isinstance(norm, bool)
    if norm != "inf" and not (number and norm >= 1):  # type: ignore[operator]
        raise CompressorOptionError(f'{operator}: norm = {norm!r} must be a number >= 1 or "inf"')


def carrier(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a norm is sent and probabilities are computed: float64 for float64, else float32."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def row_norms(x: Tensor, order: float) -> Tensor:
    """|x_g|_p of `x` `[G, n]`, in the carrier dtype `[G]`, never below max |x_j|.

    Raises NonFiniteError if a norm of finite numbers is beyond the carrier's range.
    """
    norms = torch.from_numpy(_on_cpu(x, order)) if x.device.type == "cpu" else _on_device(x, order)
    result = norms.to(carrier(x.dtype))
    beyond = torch.isfinite(result).cpu().logical_not().nonzero().flatten().tolist()
    if beyond:
        raise NonFiniteError(f"row {beyond[0]}: its {order:g}-norm is beyond the range of {result.dtype}")
    return result


def _on_cpu(x: Tensor, order: float) -> Floats:
    ones = np.ones(x.shape[0])
    if order == math.inf:
        return _reduce(x, order, ones)
    if order in (1.0, 2.0) and x.dtype is not torch.float64:
        # Sums of non-negative numbers round to no less than each, so neither norm falls below max |x_j|.
        total = _reduce(x, order, ones)
        if order == 2:
            np.sqrt(total, out=total)
        return total
    # Powers of doubles may leave the range of doubles; a power of two brings them back without rounding.
    largest = _reduce(x, math.inf, ones)
    scale = np.exp2(np.frexp(largest)[1].clip(-1000, 1000))
    total = _reduce(x, order, scale)
    with np.errstate(over="ignore"):  # the caller looks for inf
        norms: Floats = (np.sqrt(total) if order == 2 else total ** (1 / order)) * scale
    return np.maximum(norms, largest, out=norms)


def _reduce(x: Tensor, order: float, scale: Floats) -> Floats:
    """Sum of |x_j / scale|^order of every row, or the largest |x_j|: `[G]`; pieces add left to right."""
    total = np.zeros(x.shape[0])
    for rows, columns in blocks(x.shape[0], x.shape[1], x.device):
        piece = x[rows, columns]
        if order == math.inf:
            peak = piece.abs().amax(dim=1).double().numpy()
            np.maximum(total[rows], peak, out=total[rows])
            continue
        # What follows is in place, and double() of a double is no copy; abs() is. A square needs no abs().
        terms = (piece if order == 2 and x.dtype is not torch.float64 else piece.abs()).double().numpy()
        if scale[rows].max() != 1.0 or scale[rows].min() != 1.0:
            terms /= scale[rows, None]
        if order == 2:
            np.square(terms, out=terms)
        elif order != 1:
            np.power(terms, order, out=terms)
        total[rows] += np.add.reduce(terms, axis=1)
    return total


def _on_device(x: Tensor, order: float) -> Tensor:
    """Row by row, so that a row's norm does not depend on the stack it lies in."""
    norms = []
    for row in x:
        peak = row.abs().amax().double()
        scaled = row.double() / torch.where(peak == 0, torch.ones_like(peak), peak)
        norms.append(torch.maximum(torch.linalg.vector_norm(scaled, order) * peak, peak))
    return torch.stack(norms)
