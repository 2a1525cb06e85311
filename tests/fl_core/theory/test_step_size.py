"""`lr = "theory"` and `distance`: from an experiment to the theorem's number, x*, and a line for the log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from algorithms.dcgd import DCGD
from fl_core import Client
from fl_core.errors import ExperimentError
from fl_core.experiment.building import build
from fl_core.experiment.checking import checked
from fl_core.metrics import evaluate
from fl_core.reference import run_reference
from fl_core.session import Session, open_session
from fl_core.theory import Setting, steps
from fl_core.theory.step_size import theoretical
from fl_core.theory.steps import NoTheoremError


def session(algorithm: dict[str, Any], **tables: Any) -> Session:
    """An experiment on five clients of a quadratic with the server's step left to the theory, opened."""
    whole: dict[str, Any] = {
        "name": "t",
        "rounds": 3,
        "seed": 1,
        "data": {"name": "quadratic", "d": 4, "L": 2.0, "mu": 0.5, "samples_per_client": 6},
        "model": {"name": "linear", "loss": "mse", "dtype": "float64"},
        "clients": {"total": 5},
        "local": {"steps": 1, "gradient": "full", "optimizer": {"name": "sgd", "lr": 0.1}},
        "server": {"optimizer": {"name": "sgd", "lr": "theory"}},
        "algorithm": algorithm,
        "evaluate": {"metrics": ["f"]},
    }
    return open_session(checked(build(whole | tables)))


def test_the_server_step_is_gamma_over_the_local_length() -> None:
    """η_g = γ/(η_l τ), as `steps.diana` gives γ for the data's L, L_i and Rand-K's ω; the server has it as a number."""
    opened = session({"name": "diana"}, uplink={"name": "randk", "k": 1})
    gamma = steps.diana(Setting(opened.problem.constants, omega=3.0)).gamma  # type: ignore[arg-type]
    assert opened.server().lr == pytest.approx(gamma / 0.1, rel=1e-12)
    (note,) = opened.notes
    assert "server lr" in note
    assert "1/(L + 6 w' L_max)" in note
    assert "DIANA" in note


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"name": "dcgd"}, steps.dcgd),
        ({"name": "cofig"}, steps.cofig),
        ({"name": "frecon", "lam": 0.1}, lambda s: steps.frecon(s, 0.1)),
        ({"name": "scaffold"}, steps.scaffold),
        ({"name": "marina"}, lambda s: steps.pp_marina(s, 0.25)),
        ({"name": "pp-marina"}, steps.pp_marina),
        ({"name": "fedavg"}, steps.fedavg),
    ],
    ids=lambda v: v["name"] if isinstance(v, dict) else "",
)
def test_participation_and_omega_reach_the_theorem(table: dict[str, Any], expected: Any) -> None:
    """Two of five clients and Rand-1 of 4: ω = 3, S = 2. MARINA with some clients is PP-MARINA with its own p."""
    clients = {"total": 5, "sampling": "uniform", "per_round": 2}
    opened = session(table, uplink={"name": "randk", "k": 1}, clients=clients)
    setting = Setting(opened.problem.constants, 2, "uniform", 3.0, None)  # type: ignore[arg-type]
    assert opened.server().lr == pytest.approx(expected(setting).gamma / 0.1, rel=1e-12)


@pytest.mark.parametrize(("name", "theorem"), [("ef21", steps.ef21), ("ef21-pp", steps.ef21_pp), ("ef14", steps.ef14)])
def test_delta_reaches_the_theorem(name: str, theorem: Any) -> None:
    """Top-1 of 4 has δ = 1/4, and so has Rand-1 scaled by 1/(1+ω)."""
    for uplink in ("topk", "randk"):
        opened = session({"name": name}, uplink={"name": uplink, "k": 1})
        gamma = theorem(Setting(opened.problem.constants, omega=None, delta=0.25)).gamma
        assert opened.server().lr == pytest.approx(gamma / 0.1, rel=1e-12)


def test_a_regularizer_adds_to_the_constants() -> None:
    """l2 adds alpha to L: without compression γ = 1/(L + alpha), not the data's 1/L."""
    model = {"name": "linear", "loss": "mse", "dtype": "float64", "regularizer": {"name": "l2", "alpha": 3.0}}
    assert session({"name": "dcgd"}, model=model).server().lr == pytest.approx(1 / (5.0 * 0.1), rel=1e-12)
    assert session({"name": "dcgd"}).server().lr == pytest.approx(1 / (2.0 * 0.1), rel=1e-12)


def test_several_local_steps() -> None:
    """FedAvg: γ = η_g η_l τ = 1/(24 L_max), where η_g >= 1; else the text says how small the local step must be."""
    local = {"steps": 4, "gradient": "full", "optimizer": {"name": "sgd", "lr": 1e-3}}
    opened = session({"name": "fedavg"}, local=local)
    assert opened.problem.constants is not None
    largest = 1 / (24 * opened.problem.constants.L_max * 4)
    assert opened.server().lr == pytest.approx(largest / 1e-3, rel=1e-9)
    local["optimizer"] = {"name": "sgd", "lr": 0.1}
    with pytest.raises(ExperimentError, match=rf"lower \[local\] lr to at most {largest:.6g}"):
        session({"name": "fedavg"}, local=local)


def test_stochastic_gradients_are_mentioned() -> None:
    """The theorem is about full gradients: the log says so."""
    local = {"steps": 1, "gradient": "nice", "tau": 2, "optimizer": {"name": "sgd", "lr": 0.1}}
    assert "these are stochastic" in session({"name": "dcgd"}, local=local).notes[0]
    assert "stochastic" not in session({"name": "dcgd"}).notes[0]


ADAM = {"name": "adam", "lr": 0.1}


@pytest.mark.parametrize(
    ("algorithm", "tables", "text"),
    [
        ("fednova", {}, "no theorem is known here that gives fednova a server step"),
        ("diana", {"local": {"steps": 2, "optimizer": {"name": "sgd", "lr": 0.1}}}, "no theorem covers diana with 2"),
        ("dcgd", {"server": {"optimizer": {"name": "adam", "lr": "theory"}}}, 'plain "sgd" on the server'),
        ("dcgd", {"local": {"steps": 1, "optimizer": ADAM}}, 'plain "sgd" on the clients'),
        ("dcgd", {"downlink": {"name": "topk", "k": 1}}, "do not cover a compressing downlink"),
        ("dcgd", {"uplink": {"name": "topk", "k": 1}}, "needs an unbiased uplink"),
        ("dcgd", {"model": {"name": "mlp", "loss": "mse"}}, "L is known for linear models only"),
    ],
)
def test_where_there_is_no_theorem(algorithm: str, tables: dict[str, Any], text: str) -> None:
    """One sentence says what is missing, and what to do instead."""
    with pytest.raises(ExperimentError, match=text) as caught:
        session({"name": algorithm}, **tables)
    assert str(caught.value).startswith("[server] optimizer.lr: ")
    assert str(caught.value).endswith('; give a number instead of "theory"')


def test_a_theorem_is_not_inherited_by_a_method_that_computes_something_else() -> None:
    """A subclass with another local gradient has none until it states one; one with other numbers only has it."""

    @dataclass(frozen=True)
    class Heavier(DCGD):
        def local_gradient(self, client: Client, x: Tensor, s: Any) -> Tensor:
            return 2 * client.gradient(x)

    @dataclass(frozen=True)
    class Renamed(DCGD):
        """DCGD."""

    opened = session({"name": "dcgd"})
    with pytest.raises(NoTheoremError, match="Heavier has a local_gradient of its own, and the theorem of DCGD is"):
        theoretical(Heavier(), opened.problem, opened.work)
    assert theoretical(Renamed(), opened.problem, opened.work)[0] > 0


def test_distance_is_to_the_minimiser_of_this_f() -> None:
    """With l2 x* is not the data's: it is computed, ∇f is 0 there, and the log says f*."""
    model = {"name": "linear", "loss": "mse", "dtype": "float64", "regularizer": {"name": "l2", "alpha": 1.0}}
    opened = session({"name": "dcgd"}, model=model, evaluate={"metrics": ["distance", "f"]})
    problem, oracle = opened.problem, opened.problem.oracle("cpu")
    star = problem.x_star
    assert star is not None
    assert evaluate(problem, oracle, star, ["grad_norm"])["grad_norm"] < 1e-11
    assert evaluate(problem, oracle, star, ["distance"])["distance"] == 0.0
    f = evaluate(problem, oracle, star, ["f"])["f"]
    assert f"f* = {f:.6f}"[:10] in opened.notes[0]
    assert evaluate(problem, oracle, torch.zeros(4).double(), ["distance"])["distance"] == pytest.approx(
        float(star.norm())
    )


def test_a_distance_that_is_not_known_is_absent() -> None:
    """No x* for a multilayer perceptron: the log says so, the metric is left out, the run goes on."""
    model = {"name": "mlp", "loss": "mse"}
    server = {"optimizer": {"name": "sgd", "lr": 1.0}}
    opened = session({"name": "dcgd"}, model=model, server=server, evaluate={"metrics": ["distance"]})
    assert opened.problem.x_star is None
    assert "distance is not measured" in opened.notes[0]
    assert len(list(run_reference(opened))) == 3


def test_nothing_is_computed_where_nothing_is_asked() -> None:
    """A number for the step and no distance: no note, and the data's constants as they came."""
    opened = session({"name": "dcgd"}, server={"optimizer": {"name": "sgd", "lr": 0.5}})
    assert opened.notes == ()
    assert opened.server().lr == 0.5


def test_weights_by_size_with_unequal_sizes_have_no_theorem() -> None:
    """The theorem's f is the plain mean of the f_i."""
    data = {"name": "digits", "partition": {"name": "dirichlet", "alpha": 0.5}}
    model = {"name": "logistic", "loss": "cross_entropy"}
    with pytest.raises(ExperimentError, match="weighs clients equally"):
        session({"name": "fedavg"}, data=data, model=model)
    opened = session({"name": "fedavg", "weights": "uniform"}, data=data, model=model)
    assert 0 < opened.server().lr < 100
