"""Quantiles over the clients against plain formulas."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fl_core import client_metrics
from fl_core.experiment.schema import CLIENT_METRICS, Experiment
from fl_core.metrics import evaluate
from fl_core.problem import Problem, Shape
from fl_core.shards import Pair, Shards

MakeExperiment = Callable[..., Experiment]
SIZES = (2, 9, 2, 5, 9, 1)
FEATURES = 4


def clients(targets: Callable[[int, torch.Generator], Tensor]) -> list[Pair]:
    """Six clients of unequal sizes."""
    g = torch.Generator().manual_seed(3)
    return [(torch.randn(m, FEATURES, dtype=torch.float64, generator=g), targets(m, g)) for m in SIZES]


def problem(experiment: MakeExperiment, loss: str, train: list[Pair], outputs: int = 1) -> Problem:
    """A linear model in float64 with a regulariser."""
    model = {"name": "linear", "loss": loss, "regularizer": {"name": "l2", "alpha": 0.3}, "init": "default"}
    e = experiment(model=model, clients={"total": len(train)})
    return Problem(e, Shape((FEATURES,), outputs, None), Shards.of_clients(train), None, None)


@pytest.mark.parametrize("batch", [4096, 3])
def test_losses_and_gradients_of_each_client(
    experiment: MakeExperiment, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """f_i and its gradient, regulariser included, also a few samples at a time; each quantile is some client's."""
    monkeypatch.setattr(client_metrics, "_BATCH", batch)
    train = clients(lambda m, g: torch.randn(m, dtype=torch.float64, generator=g))
    p = problem(experiment, "mse", train)
    x = torch.ones(FEATURES, dtype=torch.float64, requires_grad=True)
    values, norms = [], []
    for a, b in train:
        f = (a @ x - b).square().mean() + 0.15 * x.square().sum()
        values.append(f.item())
        norms.append(torch.autograd.grad(f, [x])[0].norm().item())
    found = evaluate(p, p.oracle("cpu"), x.detach(), CLIENT_METRICS)
    names = [
        f"{metric}_{q}" for metric in ("client_f", "client_grad_norm") for q in ("min", "q10", "q50", "q90", "max")
    ]
    assert list(found) == names
    for metric, of_clients in (("client_f", sorted(values)), ("client_grad_norm", sorted(norms))):
        told = [found[f"{metric}_{q}"] for q in ("min", "q10", "q50", "q90", "max")]
        # the least value that at least q n of six do not exceed: the first, first, third, sixth and sixth
        assert told == pytest.approx([of_clients[k] for k in (0, 0, 2, 5, 5)], rel=1e-12)


def test_accuracy_of_each_client(experiment: MakeExperiment) -> None:
    """The share of its own samples that are ranked first; labels of classes, and of two signs."""
    train = clients(lambda m, g: torch.randint(3, (m,), generator=g))
    p = problem(experiment, "cross_entropy", train, outputs=3)
    x = torch.randn(3 * FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    shares = sorted(float(((a @ x.view(3, FEATURES).T).argmax(1) == b).double().mean()) for a, b in train)
    found = evaluate(p, p.oracle("cpu"), x, ["client_accuracy"])
    assert found["client_accuracy_q50"] == shares[2]
    assert found["client_accuracy_min"] == shares[0]
    assert len(found) == 5
    train = clients(lambda m, g: torch.randint(2, (m,), generator=g).double() * 2 - 1)
    p = problem(experiment, "logistic", train)
    shares = sorted(float((b * (a @ x[:FEATURES]) > 0).double().mean()) for a, b in train)
    assert evaluate(p, p.oracle("cpu"), x[:FEATURES], ["client_accuracy"])["client_accuracy_max"] == shares[-1]


def test_a_regression_has_no_accuracy(experiment: MakeExperiment) -> None:
    """Absent, not zero."""
    train = clients(lambda m, g: torch.randn(m, dtype=torch.float64, generator=g))
    p = problem(experiment, "mse", train)
    assert evaluate(p, p.oracle("cpu"), p.x0, ["client_accuracy"]) == {}
