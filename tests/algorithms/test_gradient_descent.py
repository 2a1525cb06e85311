"""Without compression, with full gradients and one local step, the methods that correct themselves are gradient
descent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

GRADIENT_DESCENT = [
    {"name": "dcgd"},
    {"name": "diana"},
    {"name": "diana", "shift_init": "gradient"},
    {"name": "diana", "alpha": 0.3},
    {"name": "cofig"},
    {"name": "marina", "p": 0.3},
    {"name": "pp-marina", "p": 0.3},
    {"name": "ef21"},
    {"name": "ef21", "g0": "compressed"},
    {"name": "ef21-pp"},
    {"name": "frecon"},
    {"name": "frecon", "lam": 0.2, "alpha": 0.7, "shift_init": "gradient"},
    {"name": "scaffold", "option": 1},
    {"name": "scaffold", "option": 2},
    {"name": "scaffold", "shift_init": "gradient"},
    {"name": "ef14"},
    {"name": "fedavg"},
    {"name": "fedprox"},
    {"name": "fednova"},
    {"name": "gradskip", "p": 1.0},
]


@pytest.mark.parametrize("table", GRADIENT_DESCENT, ids=lambda table: "-".join(map(str, table.values())))
def test_identity_full_gradients_one_step(lab: Any, table: dict[str, Any]) -> None:
    """x^t of gradient descent with γ = η_g η_l τ, to 1e-12 at every t (the server's share is 1.6: clients reach L_i =
    1.5)."""
    server_lr = 1.0 if table["name"] == "gradskip" else 1.6
    session = lab.session(table, server_lr=server_lr, rounds=40)
    points = lab.path(session)
    expected = lab.quadratic(session).descent(points[0], 0.25 * server_lr, 40)
    assert np.abs(points - expected).max() < 1e-12
    assert np.abs(points[40] - points[39]).max() > 1e-9  # it was still moving: nothing here is at x* by accident


PSEUDO = ["dcgd", "diana", "cofig", "marina", "pp-marina", "ef21", "ef14", "fednova"]


@pytest.mark.parametrize("name", PSEUDO)
def test_with_several_local_steps_they_are_fedavg(lab: Any, name: str) -> None:
    """Pseudo-gradients in place of gradients: without compression the methods are FedAvg(τ), bias included."""
    tables: dict[str, dict[str, Any]] = {"marina": {"p": 0.3}, "pp-marina": {"p": 0.3}, "ef21": {"g0": "compressed"}}
    options = tables.get(name, {})
    changes: dict[str, Any] = {"local": {"steps": 4}, "server_lr": 0.7, "rounds": 15}
    session = lab.session({"name": name, **options}, **changes)
    points, fedavg = lab.path(session), lab.path(lab.session("fedavg", **changes))
    assert np.abs(points - fedavg).max() < 1e-12


@pytest.mark.parametrize(
    "table",
    [
        {"name": "diana", "shift_init": "gradient"},
        {"name": "cofig", "shift_init": "gradient"},
        {"name": "scaffold", "shift_init": "gradient"},
        {"name": "frecon"},
        {"name": "frecon", "shift_init": "gradient"},
        {"name": "ef21"},
        {"name": "ef21-pp"},
        {"name": "marina"},
        {"name": "pp-marina"},
    ],
    ids=lambda table: "-".join(table.values()),
)
@pytest.mark.parametrize("uplink", [{"name": "randk", "k": 1}, {"name": "qsgd", "s": 1}], ids=["randk", "qsgd"])
def test_an_initial_round_of_exact_gradients(lab: Any, table: dict[str, Any], uplink: dict[str, Any]) -> None:
    """Whatever compresses and whoever was sampled: all n send W d bits, and the first step is gradient descent's."""
    session = lab.session(table, uplink=uplink, sampling="uniform", per_round=2, server_lr=1.3, rounds=1)
    quadratic = lab.quadratic(session)
    (played,) = lab.play(session)
    x0 = session.problem.x0.numpy()
    expected = quadratic.descent(x0, 0.25 * 1.3, 1)[1]
    assert np.abs(played.server.x.numpy() - expected).max() < 1e-14
    assert played.participants == tuple(range(lab.n))
    assert played.bits_up == lab.n * 64 * lab.d
    gradients = quadratic.gradients(x0)
    if table["name"] != "frecon" or "shift_init" in table:
        for rows in played.after.values():
            assert np.abs(rows.numpy() - gradients).max() < 1e-14


@pytest.mark.parametrize("name", ["diana", "cofig", "marina", "ef21", "dcgd", "scaffold", "ef14"])
def test_the_step_is_that_of_the_pseudo_gradient(lab: Any, name: str) -> None:
    """γ = η_g η_l τ: with one client and three steps, x^1 is η_g of the way to where the client's steps lead."""
    changes: dict[str, Any] = {"clients": 1, "local": {"steps": 3}, "server_lr": 0.5, "rounds": 2}
    session = lab.session(name, **changes)
    points = lab.path(session)
    start = points[1] if name == "ef21" else points[0]  # its round 1 is one of exact gradients
    alone = lab.quadratic(session).descent(start, 0.25, 3)[-1]
    after = points[2] if name == "ef21" else points[1]
    assert np.abs(after - (start + 0.5 * (alone - start))).max() < 1e-13
