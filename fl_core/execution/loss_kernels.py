"""Losses of the stacks of G clients that give each client the very bits it gets when it is alone.

As in `fl_core.execution.kernels`, whatever is faster than one call a client is tried once a shape before it is used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from fl_core.execution.kernels import random_like, remembered, same_bits, stands_for

Numbers = npt.NDArray[Any]


class CrossEntropy(torch.autograd.Function):
    """The mean of -log softmax(z)[label] for each client: z `[G, b, c]`, labels `[G, b]` -> `[G]`."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, labels: Tensor) -> Tensor:
        """Log softmax in one piece; the means by torch's own reduction, one call a client."""
        logs = torch.log_softmax(z, -1)
        ctx.save_for_backward(logs, labels)
        return mean_losses(-logs.gather(2, labels.unsqueeze(2)).squeeze(2))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """softmax(z) minus the label's unit vector, each over b."""
        logs, labels = ctx.saved_tensors
        each = (grads[0] / labels.shape[1]).neg_()
        g = torch.zeros_like(logs)
        g.scatter_(2, labels.unsqueeze(2), each.view(-1, 1, 1).expand(-1, labels.shape[1], 1))
        return torch._log_softmax_backward_data(g, logs, 2, logs.dtype), None


def cross_entropy(z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The same without autograd: what each sample costs `[G, b]`, and the derivatives of `mean_losses` of it by z.

    torch takes a softmax of few classes row by row, number by number, and one over columns in whole vectors: seven
    times faster at 10 classes, and with the same bits where the classes fit into one vector.
    """
    key = ("columns", tuple(z.shape), z.dtype, z.device.type)
    worth = z.shape[2] < 16 and labels.numel() >= _MANY
    if worth and remembered(key, lambda source: _columns_agree(z, labels, source)):
        return _softmax_by_columns(z, labels)
    return _softmax_by_rows(z, labels)


def _softmax_by_rows(z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """-log softmax at the labels `[G, b]`, and the derivatives of its means by z."""
    logs, index = torch.log_softmax(z, -1), labels.unsqueeze(2)
    g = torch.zeros_like(logs).scatter_(2, index, -1 / labels.shape[1])
    dz = torch._log_softmax_backward_data(g, logs, 2, logs.dtype)
    return -logs.gather(2, index).squeeze(2), dz


def _softmax_by_columns(z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    clients, b, c = z.shape
    count, index = clients * b, labels.reshape(1, -1)
    columns = z.new_zeros(c, -(-count // _VECTORS) * _VECTORS)  # the last few would go another way
    columns[:, :count] = z.reshape(count, c).t()
    logs = torch.log_softmax(columns, 0)
    g = torch.zeros_like(logs).scatter_(0, index, -1 / b)
    dz = torch._log_softmax_backward_data(g, logs, 0, logs.dtype)
    return -logs.gather(0, index).view(clients, b), dz[:, :count].t().contiguous().view(clients, b, c)


_MANY = 256
"""Samples from which turning rows into columns is worth it."""
_VECTORS = 64
"""Numbers that are a whole number of vectors on any processor."""


def _columns_agree(z: Tensor, labels: Tensor, source: torch.Generator) -> bool:
    """Tried on some thousand samples: where the order of additions differs, every second of them does."""
    for _ in range(1 + 4096 // max(1, labels.numel())):
        drawn = 3 * random_like(z.detach().contiguous(), source)
        rows, columns = _softmax_by_rows(drawn, labels), _softmax_by_columns(drawn, labels)
        if not (stands_for(rows[0], columns[0]) and stands_for(rows[1], columns[1])):
            return False
    return True


def mean_losses(each: Tensor) -> Tensor:
    """What torch.nll_loss gives for each client, whose samples cost `each` `[G, b]`: `[G]`.

    Whether ours is its order of adding is tried for each batch size; where it is not, it is asked.
    """
    if each.device.type == "cpu" and each.dtype in (torch.float32, torch.float64):
        key = ("nll", tuple(each.shape), each.dtype)
        if remembered(key, lambda source: _adds_in_sixteens(random_like(each.detach(), source))):
            return _in_sixteens(each)
    return _nll(each) if each.device.type == "cpu" else each.mean(1)


def _adds_in_sixteens(drawn: Tensor) -> bool:
    return same_bits(_in_sixteens(drawn), _nll(drawn))


def _nll(each: Tensor) -> Tensor:
    """By torch itself, as of samples that have a single class."""
    labels = torch.zeros(each.shape[1], dtype=torch.int64, device=each.device)
    return torch.stack([functional.nll_loss(-row.unsqueeze(1), labels) for row in each.unbind()])


def _in_sixteens(each: Tensor) -> Tensor:
    """Row means of `[G, b]`, added as torch does: the first by itself, then in sixteens, in order."""
    columns = np.ascontiguousarray(each.detach().numpy().T)
    b = len(columns)
    rest = (b - 1) % 16
    sixteens = np.zeros_like(columns[0])
    for start in range(1, b - 15, 16):
        sixteens += _in_order(columns[start : start + 16])
    return torch.from_numpy((_in_order(columns[b - rest :]) + sixteens + columns[0]) / b)


def _in_order(rows: Numbers) -> Numbers:
    """Sum over dimension 0, one row after the other, from zero on: so NumPy adds what is not the fastest in memory."""
    total: Numbers
    if rows.shape[1] == 1 and len(rows):  # a single column it adds in pairs
        total = np.add.accumulate(rows, axis=0)[-1] + 0
    else:
        total = np.add.reduce(rows, axis=0, initial=0)
    return total
