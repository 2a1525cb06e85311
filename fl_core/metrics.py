"""The metrics that are evaluated when asked for, not every round. A value that was not measured is absent.

f              (1/n) Σ_i f_i(x), the full objective, regulariser included
grad_norm      ‖∇f(x)‖₂ of that objective
distance       ‖x - x*‖₂ where x* is known
loss, accuracy, accuracy_top5    on the test set
client_…       quantiles over the clients: `fl_core.client_metrics`
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fl_core.client_metrics import client_quantiles
from fl_core.experiment.schema import CLIENT_METRICS, EVALUATED_METRICS
from fl_core.intra_op import use_intra_op_threads
from fl_core.oracle import Oracle
from fl_core.randomness import ClientRandomness, generator
from fl_core.user_code import in_code_of

if TYPE_CHECKING:
    from fl_core.problem import Problem

_BATCH = 4096
"""Samples in one forward pass of an evaluation."""


def evaluate(problem: Problem, oracle: Oracle, x: Tensor, names: Iterable[str]) -> dict[str, float]:
    """The metrics asked for at x `[d]`; those that do not exist for this problem are left out.

    Args:
        oracle: a replica that no one else uses.

    Raises:
        UserCodeError: the user's own model raised.
    """
    use_intra_op_threads(1)  # whichever thread this is, the same bits
    # A model that draws even in evaluation (dropout called as a function) draws the same numbers each time.
    model = problem.experiment.model.plug
    with in_code_of(model), ClientRandomness(generator(problem.experiment.seed, "evaluation")):
        return _evaluated(problem, oracle, x.to(oracle.device), set(names))


def _evaluated(problem: Problem, oracle: Oracle, x: Tensor, asked: set[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    if asked & {"f", "grad_norm"}:
        f, g = full_objective(problem, oracle, x, gradient="grad_norm" in asked)
        found["f"] = f
        if g is not None:
            found["grad_norm"] = float(torch.linalg.vector_norm(g))
    if "distance" in asked and problem.x_star is not None:
        found["distance"] = float(torch.linalg.vector_norm(x.double() - problem.x_star.to(x.device)))
    if asked & {"loss", "accuracy", "accuracy_top5"} and problem.test is not None:
        classes = problem.classifies and bool(asked & {"accuracy", "accuracy_top5"})
        found |= _on_test_set(problem, oracle, x, classes)
    named = {name: found[name] for name in EVALUATED_METRICS if name in asked and name in found}
    of_clients = asked.intersection(CLIENT_METRICS)
    return named | client_quantiles(problem, oracle, x, of_clients) if of_clients else named


def full_objective(problem: Problem, oracle: Oracle, x: Tensor, gradient: bool) -> tuple[float, Tensor | None]:
    """f(x) and, if asked, ∇f(x) (float64 `[d]`), with every client weighing 1/n whatever its size.

    Clients of equal size are evaluated together: the mean over their joined samples is the mean of their means.
    """
    by_size: dict[int, list[int]] = defaultdict(list)
    for i in range(problem.n):
        by_size[problem.shards.size(i)].append(i)
    f = 0.0
    total = torch.zeros(problem.d, dtype=torch.float64, device=x.device) if gradient else None
    for m, clients in sorted(by_size.items()):
        together = max(1, _BATCH // m)
        for start in range(0, len(clients), together):
            group = clients[start : start + together]
            shards = [problem.shard(i, oracle.device) for i in group]
            inputs, targets = torch.cat([s[0] for s in shards]), torch.cat([s[1] for s in shards])
            for a in range(0, len(targets), _BATCH):  # one client alone may be more than fits in memory
                some, theirs = inputs[a : a + _BATCH], targets[a : a + _BATCH]
                weight = len(theirs) / len(targets) * len(group) / problem.n
                if total is not None:
                    g, value = oracle.evaluated_gradient(x, some, theirs)
                    total.add_(g.double(), alpha=weight)
                else:
                    value = oracle.loss_of(oracle.outputs(x, some), theirs)
                f += float(value) * weight
    if problem.regularizer is not None:
        f += float(problem.regularizer.value(x.double()))
        if total is not None:
            total += problem.regularizer.gradient(x.double())
    return f, total


def _on_test_set(problem: Problem, oracle: Oracle, x: Tensor, classes: bool) -> dict[str, float]:
    assert problem.test is not None
    inputs, targets = (part.to(oracle.device) for part in problem.test)
    m = targets.shape[0]
    loss, right, right5 = 0.0, 0, 0
    width = 0
    for start in range(0, m, _BATCH):
        batch = targets[start : start + _BATCH]
        outputs = oracle.outputs(x, inputs[start : start + _BATCH].clone())  # a model may write into its input
        loss += float(oracle.loss_of(outputs, batch)) * batch.shape[0]
        width = outputs.shape[-1] if outputs.dim() > 1 else 1
        if not classes:
            continue
        if problem.loss_name == "logistic":  # labels -1, +1
            right += int((outputs.reshape(-1).sign() == batch.reshape(-1).sign()).sum())
        else:
            ranked = outputs.topk(min(5, width), dim=-1).indices == batch.unsqueeze(-1)
            ranked &= ~outputs.isnan().any(-1, keepdim=True)  # NaN ranks first, and is no answer
            right += int(ranked[:, 0].sum())
            right5 += int(ranked.any(-1).sum())
    found = {"loss": loss / m}
    if classes:
        found["accuracy"] = right / m
        if width > 5:
            found["accuracy_top5"] = right5 / m
    return found
