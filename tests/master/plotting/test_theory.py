"""Lines of theorems: drawn where the experiment meets their conditions, with the proven factor, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fl_core.theory.setting import Setting
from fl_core.theory.steps import diana
from master.flctl.stored_run import StoredRun
from master.plotting.curves import Curve, Group, curve
from master.plotting.theory import NoLineError, least_value, line, rate
from protocol.errors import InputError

ReferenceRun = Callable[[str], StoredRun]

TEXT = """
name = "theory"
rounds = 30
seed = 3
[data]
name = "quadratic"
d = 8
L = 1.0
mu = 0.2
samples_per_client = 8
spectrum = "each"
[model]
name = "linear"
bias = false
loss = "mse"
dtype = "float64"
[clients]
total = {total}
per_round = {per_round}
[local]
steps = {steps}
gradient = "{gradient}"
batch_size = 2
optimizer = {{ name = "sgd", lr = 1.0 }}
[server]
optimizer = {{ name = "sgd", lr = {lr} }}
[algorithm]
name = "{algorithm}"
[uplink]
{uplink}
[evaluate]
metrics = ["f", "grad_norm", "distance"]
"""
RIGHT = {"total": 4, "per_round": 4, "steps": 1, "gradient": "full", "lr": "0.5", "algorithm": "dcgd",
         "uplink": 'name = "identity"'}  # fmt: skip


def text(**changed: object) -> str:
    """The experiment with some of it changed."""
    return TEXT.format(**(RIGHT | changed))


def measured(run: StoredRun, y: str = "distance") -> tuple[Group, Curve]:
    """The run as a curve."""
    group = Group((run,))
    return group, curve(group, "it", "round", y)


def test_gradient_descents_line_bounds_the_run(reference_run: ReferenceRun) -> None:
    """|x - x*| falls by at least 1 - γ mu a round; the line begins where the curve does and lies above it."""
    run = reference_run(text())
    group, found = measured(run)
    theory = line(group, found, "distance", None)
    factors = theory.y[1:] / theory.y[:-1]
    assert theory.y[0] == found.y[0]
    assert theory.beside == "it"
    assert np.allclose(factors, factors[0])
    assert 0.5 < factors[0] < 1.0
    assert bool((found.y <= theory.y * (1 + 1e-12)).all())
    assert theory.label == f"gradient descent theorem, ×{factors[0]:.4g} a round"


def test_a_theorems_line_has_the_theorems_rate(reference_run: ReferenceRun) -> None:
    """DIANA with Rand-K at lr = "theory": the factor of its Lyapunov function, and its root for a distance."""
    run = reference_run(text(algorithm="diana", lr='"theory"', uplink='name = "randk"\nk = 4'))
    factor, name = rate(run, None)
    assert name == "diana theorem"
    group, found = measured(run)
    theory = line(group, found, "distance", None)
    assert theory.y[1] / theory.y[0] == pytest.approx(factor**0.5)
    from fl_core.experiment.reading import read_experiments
    from fl_core.problem import assemble

    constants = assemble(read_experiments(run.path / "experiment.toml")[0]).constants
    assert constants is not None
    assert factor == diana(Setting(constants, 4, omega=1.0, delta=None)).rate


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"uplink": 'name = "randk"\nk = 4'}, "needs no compression"),
        ({"per_round": 2}, "needs all clients"),
        ({"steps": 3, "lr": "0.1"}, "one local step"),
        ({"gradient": "minibatch"}, "stochastic"),
        ({"lr": "1.9"}, "no linear rate at step 1.9"),
        ({"algorithm": "frecon"}, "not plain gradient descent"),
        ({"algorithm": "dcgd", "lr": '"theory"', "uplink": 'name = "randk"\nk = 4'}, "to a neighbourhood"),
        ({"algorithm": "fednova", "lr": '"theory"'}, "no theorem is known"),
        ({"algorithm": "diana", "lr": '"theory"', "gradient": "minibatch"}, "stochastic"),
    ],
)
def test_no_line_where_no_theorem_holds(
    make_run: Callable[..., StoredRun], changed: dict[str, object], reason: str
) -> None:
    """Each condition that is not met takes the line away, and is named."""
    import tomllib

    run = make_run(tomllib.loads(text(**changed)), [{"round": 0, "distance": 1.0}], name="refused")
    with pytest.raises(NoLineError, match=reason):
        rate(run, None)


def test_no_line_for_a_metric_that_theory_does_not_speak_of(reference_run: ReferenceRun) -> None:
    """f itself has a floor; f - f* has none."""
    run = reference_run(text())
    group, found = measured(run, "f")
    with pytest.raises(NoLineError, match=r"f-f\*"):
        line(group, found, "f", None)
    factor = rate(run, None)[0]
    gap = curve(group, "it", "round", "f-f*", least={run.name: least_value(run, None)})
    theory = line(group, gap, "f-f*", None)
    assert theory.y[1] / theory.y[0] == pytest.approx(factor)
    assert bool((gap.y[:20] > 0).all())
    squares = line(group, curve(group, "it", "round", "grad_norm^2"), "grad_norm^2", None)
    assert squares.y[1] / squares.y[0] == pytest.approx(factor)
    assert gap.y[20] < 1e-2 * gap.y[0]


def test_an_unknown_least_value_is_told(make_run: Callable[..., StoredRun]) -> None:
    """f* of an unregularised softmax regression is not computed here."""
    tables = {
        "rounds": 1,
        "data": {"name": "digits", "partition": {"name": "iid"}},
        "model": {"name": "logistic"},
        "clients": {"total": 4},
        "algorithm": {"name": "fedavg"},
    }
    with pytest.raises(InputError, match=r"f\*|minimiser|cross_entropy"):
        least_value(make_run(tables, [{"round": 0}]), None)
