"""The evaluated metrics against plain formulas."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fl_core import metrics
from fl_core.experiment.schema import EVALUATED_METRICS, Experiment
from fl_core.metrics import evaluate, full_objective
from fl_core.problem import Problem, Shape
from fl_core.shards import Pair, Shards

MakeExperiment = Callable[..., Experiment]
SIZES = (2, 9, 2, 5, 9, 1)
FEATURES = 4


def source(seed: int = 3) -> torch.Generator:
    """Always the same numbers."""
    return torch.Generator().manual_seed(seed)


def clients(targets: Callable[[int, torch.Generator], Tensor]) -> list[Pair]:
    """Six clients of unequal sizes."""
    g = source()
    return [(torch.randn(m, FEATURES, dtype=torch.float64, generator=g), targets(m, g)) for m in SIZES]


def real(m: int, g: torch.Generator) -> Tensor:
    """Targets of a regression."""
    return torch.randn(m, dtype=torch.float64, generator=g)


def signs(m: int, g: torch.Generator) -> Tensor:
    """Labels -1 and +1."""
    return torch.randint(2, (m,), generator=g).double() * 2 - 1


def labels(classes: int) -> Callable[[int, torch.Generator], Tensor]:
    """Labels 0 … classes-1."""
    return lambda m, g: torch.randint(classes, (m,), generator=g)


def problem(
    experiment: MakeExperiment,
    loss: str,
    train: list[Pair],
    outputs: int = 1,
    test: Pair | None = None,
    regularizer: Any = "none",
    constants: Any = None,
) -> Problem:
    """A linear model on these clients, in float64."""
    e = experiment(
        model={"name": "linear", "loss": loss, "regularizer": regularizer, "init": "default"},
        clients={"total": len(train)},
    )
    return Problem(e, Shape((FEATURES,), outputs, None), Shards.of_clients(train), test, constants)


def least_squares(x: Tensor, train: list[Pair]) -> Tensor:
    """(1/n) Σ_i (1/m_i) Σ_j (a_ij^T x - b_ij)²: every client weighs 1/n."""
    return torch.stack([(a @ x - b).square().mean() for a, b in train]).mean()


REGULARIZERS: list[tuple[Any, Callable[[Tensor], Tensor]]] = [
    ("none", lambda x: x.new_zeros(())),
    ({"name": "l2", "alpha": 0.3}, lambda x: 0.15 * x.square().sum()),
    ({"name": "nonconvex", "alpha": 0.3}, lambda x: 0.3 * (x.square() / (1 + x.square())).sum()),
]


@pytest.mark.parametrize("batch", [4096, 3])
@pytest.mark.parametrize(("regularizer", "value"), REGULARIZERS)
def test_the_full_objective_and_its_gradient(
    experiment: MakeExperiment,
    monkeypatch: pytest.MonkeyPatch,
    regularizer: Any,
    value: Callable[[Tensor], Tensor],
    batch: int,
) -> None:
    """f weighs clients alike whatever their sizes, has the regulariser once; grad_norm is the norm of its gradient.

    Also when clients are evaluated a few samples at a time.
    """
    monkeypatch.setattr(metrics, "_BATCH", batch)
    train = clients(real)
    p = problem(experiment, "mse", train, regularizer=regularizer)
    x = torch.randn(FEATURES, dtype=torch.float64, generator=source(9), requires_grad=True)
    f = least_squares(x, train) + value(x)
    (g,) = torch.autograd.grad(f, [x])
    found = evaluate(p, p.oracle("cpu"), x.detach(), ["grad_norm", "f"])
    assert found["f"] == pytest.approx(f.item(), rel=1e-12)
    assert found["grad_norm"] == pytest.approx(float(g.norm()), rel=1e-12)
    again, gradient = full_objective(p, p.oracle("cpu"), x.detach(), gradient=True)
    assert gradient is not None
    assert torch.allclose(gradient, g, rtol=0, atol=1e-12)
    assert again == pytest.approx(f.item(), rel=1e-12)
    assert full_objective(p, p.oracle("cpu"), x.detach(), gradient=False)[1] is None


def test_f_is_not_the_mean_over_samples(experiment: MakeExperiment) -> None:
    """Where clients differ in size, the mean over all samples is another number."""
    train = clients(real)
    x = torch.ones(FEATURES, dtype=torch.float64)
    pooled = (torch.cat([a for a, _ in train]) @ x - torch.cat([b for _, b in train])).square().mean()
    p = problem(experiment, "mse", train)
    assert abs(evaluate(p, p.oracle("cpu"), x, ["f"])["f"] - float(pooled)) > 0.01


def test_f_of_classifiers(experiment: MakeExperiment) -> None:
    """Cross entropy and the logistic loss, written out."""
    train = clients(labels(3))
    p = problem(experiment, "cross_entropy", train, outputs=3)
    x = torch.randn(3 * FEATURES, dtype=torch.float64, generator=source(9))
    z = [a @ x.view(3, FEATURES).T for a, _ in train]
    f = sum(
        -(s[torch.arange(len(b)), b] - s.exp().sum(1).log()).mean() for s, (_, b) in zip(z, train, strict=True)
    ) / len(train)
    assert evaluate(p, p.oracle("cpu"), x, ["f"])["f"] == pytest.approx(float(f), rel=1e-12)

    train = clients(signs)
    p = problem(experiment, "logistic", train)
    x = x[:FEATURES]
    f = sum((1 + (-b * (a @ x)).exp()).log().mean() for a, b in train) / len(train)
    assert evaluate(p, p.oracle("cpu"), x, ["f"])["f"] == pytest.approx(float(f), rel=1e-12)


@pytest.mark.parametrize("batch", [4096, 7])
def test_the_test_set_of_a_classifier(experiment: MakeExperiment, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """Loss is the mean over test samples; accuracy the share of right first guesses, top 5 of right ones in five."""
    monkeypatch.setattr(metrics, "_BATCH", batch)
    g = source()
    a, b = torch.randn(50, FEATURES, dtype=torch.float64, generator=g), torch.randint(8, (50,), generator=g)
    p = problem(experiment, "cross_entropy", clients(labels(8)), outputs=8, test=(a, b))
    x = torch.randn(8 * FEATURES, dtype=torch.float64, generator=g)
    z = a @ x.view(8, FEATURES).T
    ranks = (z > z[torch.arange(50), b].unsqueeze(1)).sum(1)
    found = evaluate(p, p.oracle("cpu"), x, ["accuracy_top5", "loss", "accuracy"])
    assert list(found) == ["loss", "accuracy", "accuracy_top5"]
    assert found["accuracy"] == float((ranks == 0).double().mean())
    assert found["accuracy_top5"] == float((ranks < 5).double().mean())
    assert found["accuracy"] < found["accuracy_top5"] < 1.0
    expected = -(z[torch.arange(50), b] - z.exp().sum(1).log()).mean()
    assert found["loss"] == pytest.approx(float(expected), rel=1e-12)


def test_the_accuracy_of_a_logistic_model(experiment: MakeExperiment) -> None:
    """Labels ±1: the share of samples on their label's side."""
    g = source()
    a, b = torch.randn(40, FEATURES, dtype=torch.float64, generator=g), signs(40, g)
    p = problem(experiment, "logistic", clients(signs), test=(a, b))
    x = torch.randn(FEATURES, dtype=torch.float64, generator=g)
    found = evaluate(p, p.oracle("cpu"), x, EVALUATED_METRICS)
    assert found["accuracy"] == float((b * (a @ x) > 0).double().mean())
    assert 0 < found["accuracy"] < 1
    assert "accuracy_top5" not in found


@pytest.mark.parametrize("columns", [1, 3])
def test_a_regression_has_no_accuracy(experiment: MakeExperiment, columns: int) -> None:
    """With loss "mse" there is a test loss, and no accuracy even if it is asked for."""
    g = source()
    a = torch.randn(9, FEATURES, dtype=torch.float64, generator=g)
    b = torch.randn(9, columns, dtype=torch.float64, generator=g)
    train = clients(lambda m, g: torch.randn(m, columns, dtype=torch.float64, generator=g))
    p = problem(experiment, "mse", train, outputs=columns, test=(a, b))
    x = torch.randn(columns * FEATURES, dtype=torch.float64, generator=g)
    found = evaluate(p, p.oracle("cpu"), x, EVALUATED_METRICS)
    assert found.keys() == {"f", "grad_norm", "loss"}
    assert found["loss"] == pytest.approx(float((a @ x.view(columns, -1).T - b).square().sum(1).mean()), rel=1e-12)


def test_few_classes_have_no_top_5(experiment: MakeExperiment) -> None:
    """Five classes or fewer: the fifth guess is always right, so it is not measured."""
    test = (torch.ones(2, FEATURES, dtype=torch.float64), torch.tensor([0, 4]))
    p = problem(experiment, "cross_entropy", clients(labels(5)), outputs=5, test=test)
    assert evaluate(p, p.oracle("cpu"), p.x0, ["accuracy", "accuracy_top5"]).keys() == {"accuracy"}


def test_the_distance(experiment: MakeExperiment) -> None:
    """‖x - x*‖ where x* is known; absent where it is not."""
    x_star = torch.arange(4.0, dtype=torch.float64)
    known = problem(experiment, "mse", clients(real), constants=SimpleNamespace(x_star=x_star))
    x = x_star + torch.tensor([3.0, 0.0, 4.0, 0.0], dtype=torch.float64)
    assert evaluate(known, known.oracle("cpu"), x, ["distance"]) == {"distance": 5.0}
    unknown = problem(experiment, "mse", clients(real))
    assert evaluate(unknown, unknown.oracle("cpu"), x, ["distance", "loss", "accuracy"]) == {}


def test_only_what_is_asked_for(experiment: MakeExperiment) -> None:
    """Each metric by itself, in the order of the list, whatever the order of asking."""
    g = source()
    test = (torch.randn(3, FEATURES, dtype=torch.float64, generator=g), labels(8)(3, g))
    p = problem(experiment, "cross_entropy", clients(labels(8)), outputs=8, test=test)
    for name in ("f", "grad_norm", "loss", "accuracy", "accuracy_top5"):
        assert list(evaluate(p, p.oracle("cpu"), p.x0, [name])) == [name]
    assert evaluate(p, p.oracle("cpu"), p.x0, []) == {}


def test_an_evaluation_changes_nothing(experiment: MakeExperiment) -> None:
    """x stays, and asking again gives the same floats."""
    p = problem(experiment, "mse", clients(real))
    x = torch.ones(FEATURES, dtype=torch.float64)
    oracle = p.oracle("cpu")
    first = evaluate(p, oracle, x, EVALUATED_METRICS)
    assert torch.equal(x, torch.ones(FEATURES, dtype=torch.float64))
    assert evaluate(p, oracle, x, EVALUATED_METRICS) == first


def test_a_model_that_writes_into_its_input(experiment: MakeExperiment) -> None:
    """It normalises in place: the data is not changed by being evaluated."""
    text = """\
import torch

class Net(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x.sub_(0.5).div_(0.1))

def build(**options):
    return Net(4, 1)
"""
    files = {("model", "my_model.py"): text}
    e = experiment(files, model={"name": "my_model.py", "loss": "mse", "dtype": "float64"}, clients={"total": 6})
    test = (torch.ones(5, FEATURES, dtype=torch.float64), torch.ones(5, dtype=torch.float64))
    p = Problem(e, Shape((FEATURES,), 1, None), Shards.of_clients(clients(real)), test, None)
    digest, oracle = p.shards.digest(), p.oracle("cpu")
    first = evaluate(p, oracle, p.x0, ["f", "loss"])
    assert evaluate(p, oracle, p.x0, ["f", "loss"]) == first
    assert p.shards.digest() == digest
    assert bool((test[0] == 1).all())


@pytest.mark.usefixtures("global_generator_untouched")
def test_a_model_that_draws_in_evaluation(experiment: MakeExperiment) -> None:
    """Dropout called as a function drops in evaluation too: by the same numbers each time, and not the threads'."""
    text = """\
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def forward(self, x):
        return torch.nn.functional.dropout(self.layer(x), 0.5)

def build(**options):
    return Net()
"""
    files = {("model", "my_model.py"): text}
    e = experiment(files, model={"name": "my_model.py", "loss": "mse", "dtype": "float64"}, clients={"total": 6})
    p = Problem(e, Shape((FEATURES,), 1, None), Shards.of_clients(clients(real)), None, None)
    first = evaluate(p, p.oracle("cpu"), p.x0, ["f", "grad_norm"])
    assert evaluate(p, p.oracle("cpu"), p.x0, ["f", "grad_norm"]) == first


def test_small_types(experiment: MakeExperiment) -> None:
    """A bfloat16 model is evaluated in bfloat16: near the float64 numbers, and all are floats."""
    train = [(a.bfloat16(), b) for a, b in clients(labels(8))]
    g = source()
    test = (torch.randn(20, FEATURES, generator=g).bfloat16(), labels(8)(20, g))
    model = {"name": "linear", "loss": "cross_entropy", "dtype": "bfloat16", "init": "default"}
    e = experiment(model=model, clients={"total": 6})
    p = Problem(e, Shape((FEATURES,), 8, 8), Shards.of_clients(train), test, None)
    exact = problem(
        experiment, "cross_entropy", [(a.double(), b) for a, b in train], outputs=8, test=(test[0].double(), test[1])
    )
    found = evaluate(p, p.oracle("cpu"), p.x0, EVALUATED_METRICS)
    expected = evaluate(exact, exact.oracle("cpu"), p.x0.double(), EVALUATED_METRICS)
    assert found.keys() == expected.keys() == {"f", "grad_norm", "loss", "accuracy", "accuracy_top5"}
    assert all(type(value) is float for value in found.values())
    assert found["f"] == pytest.approx(expected["f"], rel=0.02)
    assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=0.05)


@pytest.mark.parametrize("names", [("accuracy",), ("client_accuracy",)])
def test_one_class_is_always_right(experiment: MakeExperiment, names: tuple[str, ...]) -> None:
    """With cross entropy labels are classes, however many: with one there is no other answer."""
    train = clients(labels(1))
    p = problem(experiment, "cross_entropy", train, outputs=1, test=train[1])
    found = evaluate(p, p.oracle("cpu"), p.x0, names)
    assert found
    assert set(found.values()) == {1.0}


@pytest.mark.parametrize(("loss", "targets", "outputs"), [("cross_entropy", labels(7), 7), ("logistic", signs, 1)])
def test_nan_is_no_right_answer(
    experiment: MakeExperiment, loss: str, targets: Callable[[int, torch.Generator], Tensor], outputs: int
) -> None:
    """A model that gives NaN has no accuracy, on the test set or at a client."""
    train = clients(targets)
    p = problem(experiment, loss, train, outputs=outputs, test=train[1])
    found = evaluate(p, p.oracle("cpu"), p.x0 * torch.nan, ("accuracy", "accuracy_top5", "client_accuracy"))
    assert "accuracy" in found
    assert set(found.values()) == {0.0}
