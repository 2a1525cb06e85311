"""Metrics of every client at x, told as quantiles over the clients: how unequal the clients are.

client_f           f_i(x), the client's objective, regulariser included
client_grad_norm   ‖∇f_i(x)‖₂
client_accuracy    share of the client's own samples whose label is ranked first

Of each there are `_min`, `_q10`, `_q50`, `_q90` and `_max`. A quantile q is the smallest value that at least q n of the
n clients do not exceed: it was measured at some client, and is not interpolated. All clients count, each once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fl_core.oracle import Oracle

if TYPE_CHECKING:
    from fl_core.problem import Problem

QUANTILES = {"min": 0.0, "q10": 0.1, "q50": 0.5, "q90": 0.9, "max": 1.0}
_BATCH = 4096
"""Samples in one forward pass."""


def client_quantiles(problem: Problem, oracle: Oracle, x: Tensor, asked: Collection[str]) -> dict[str, float]:
    """The quantiles of the metrics asked for at x `[d]`; accuracy only where samples have labels."""
    values: dict[str, list[float]] = {}
    if "client_f" in asked or ("client_accuracy" in asked and problem.classifies):
        losses, shares = _losses(problem, oracle, x)
        values["client_f"] = losses
        if problem.classifies:
            values["client_accuracy"] = shares
    if "client_grad_norm" in asked:
        values["client_grad_norm"] = [_grad_norm(problem, oracle, x, i) for i in range(problem.n)]
    return {
        f"{metric}_{name}": float(np.quantile(values[metric], q, method="inverted_cdf"))
        for metric in sorted(asked)
        if metric in values
        for name, q in QUANTILES.items()
    }


def _losses(problem: Problem, oracle: Oracle, x: Tensor) -> tuple[list[float], list[float]]:
    """f_i(x), and the share of its samples that are right, of each client."""
    loss, right = [0.0] * problem.n, [0] * problem.n
    for group in _groups(problem):
        shards = [problem.shard(i, oracle.device) for i in group]
        for a in range(0, problem.shards.size(group[0]), _BATCH):  # one client alone may be more than fits in memory
            outputs = oracle.outputs(x, torch.cat([inputs[a : a + _BATCH] for inputs, _ in shards]))
            parts = outputs.chunk(len(group))
            for i, part, (_, targets) in zip(group, parts, shards, strict=True):
                theirs = targets[a : a + _BATCH]
                loss[i] += float(oracle.loss_of(part, theirs)) * len(theirs) / len(targets)
                right[i] += _right(part, theirs, problem.loss_name) if problem.classifies else 0
    r = 0.0 if problem.regularizer is None else float(problem.regularizer.value(x.double()))
    return [value + r for value in loss], [right[i] / problem.shards.size(i) for i in range(problem.n)]


def _groups(problem: Problem) -> Iterator[list[int]]:
    """Clients of the same size, as many as one forward pass takes."""
    by_size: dict[int, list[int]] = defaultdict(list)
    for i in range(problem.n):
        by_size[problem.shards.size(i)].append(i)
    for m, clients in sorted(by_size.items()):
        together = max(1, _BATCH // m)
        yield from (clients[start : start + together] for start in range(0, len(clients), together))


def _right(outputs: Tensor, targets: Tensor, loss: str) -> int:
    if loss == "logistic":  # labels -1, +1
        return int((outputs.reshape(-1).sign() == targets.reshape(-1).sign()).sum())
    right = (outputs.argmax(-1) == targets) & ~outputs.isnan().any(-1)  # NaN ranks first, and is no answer
    return int(right.sum())


def _grad_norm(problem: Problem, oracle: Oracle, x: Tensor, i: int) -> float:
    inputs, targets = problem.shard(i, oracle.device)
    total = torch.zeros(problem.d, dtype=torch.float64, device=x.device)
    for a in range(0, len(targets), _BATCH):
        some, theirs = inputs[a : a + _BATCH], targets[a : a + _BATCH]
        total.add_(oracle.evaluated_gradient(x, some, theirs)[0].double(), alpha=len(theirs) / len(targets))
    if problem.regularizer is not None:
        total += problem.regularizer.gradient(x.double())
    return float(torch.linalg.vector_norm(total))


__all__ = ["QUANTILES", "client_quantiles"]
