"""SCAFFOLD: no bias from local steps; its control variates; compression."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


@pytest.mark.parametrize("option", [1, 2])
def test_local_steps_leave_no_bias(lab: Any, option: int) -> None:
    """Five local steps on clients that differ: x* itself, with all clients and with two of five. FedAvg stops away
    from it."""
    table = {"name": "scaffold", "option": option}
    for participation in ({}, {"sampling": "uniform", "per_round": 2}):
        x, quadratic = lab.final(table, local={"steps": 5}, rounds=80, **participation)
        assert np.linalg.norm(x - quadratic.x_star) < 1e-5
    assert np.linalg.norm(quadratic.fixed_point(0.25, 5) - quadratic.x_star) > 1e-3


def test_rounds_written_out(lab: Any) -> None:
    """Option II with two of five clients and three steps, against NumPy: c += (1/n) Σ_S U_i, not mean_S."""
    session = lab.session("scaffold", sampling="uniform", per_round=2, local={"steps": 3}, server_lr=0.8, rounds=15)
    quadratic, n, d, lr = lab.quadratic(session), lab.n, lab.d, 0.25
    x, c_i = np.zeros(d), np.zeros((n, d))
    for played in lab.play(session):
        c, S, delta = c_i.mean(0), list(played.participants), []
        for i in S:
            y = x.copy()
            for _ in range(3):
                y = y - lr * (quadratic.gradients(y)[i] - c_i[i] + c)
            delta.append(y - x)
            c_i[i] = c_i[i] - c + (x - y) / (3 * lr)
        x = x + 0.8 * np.mean(delta, axis=0)
        assert np.abs(played.server.x.numpy() - x).max() < 1e-13
        assert np.abs(played.after["c_i"].numpy() - c_i).max() < 1e-12
        assert np.abs(played.server.state.c.numpy() - c_i.mean(0)).max() < 1e-12


def test_option_1_takes_the_gradient_at_x(lab: Any) -> None:
    """c_i^+ = ∇f_i(x^t), for one more gradient; option II's is the mean along the local steps."""
    calls = {}
    for option in (1, 2):
        session = lab.session({"name": "scaffold", "option": option}, local={"steps": 3}, rounds=2)
        quadratic, x = lab.quadratic(session), np.zeros(lab.d)
        for played in lab.play(session):
            error = np.abs(played.after["c_i"].numpy() - quadratic.gradients(x)).max()
            assert (error < 1e-12) == (option == 1)
            x = played.server.x.numpy().copy()
        calls[option] = sum(m["oracle_calls"] for m in metrics(session))
    assert calls == {1: 2 * 5 * 8 * 4, 2: 2 * 5 * 8 * 3}


def metrics(session: Any) -> list[dict[str, float]]:
    """Of every round of the reference."""
    from fl_core.reference import run_reference

    return [found for _, found in run_reference(session)]


@pytest.mark.parametrize(
    ("uplink", "steps"), [({"name": "randk", "k": 1}, 2), ({"name": "lazy", "p": 0.3}, 1)], ids=["randk", "lazy"]
)
def test_compressed_it_still_goes_to_the_minimiser(lab: Any, uplink: dict[str, Any], steps: int) -> None:
    """ω = 3 and 2.3, where α = 1 would diverge: both messages compressed, x* reached, c_i = ∇f_i(x*)."""
    changes: dict[str, Any] = {"local": {"steps": steps}, "lr": 0.2, "server_lr": 0.7, "rounds": 150}
    session = lab.session("scaffold", uplink=uplink, **changes)
    quadratic = lab.quadratic(session)
    *_, played = lab.play(session)
    assert np.abs(played.server.x.numpy() - quadratic.x_star).max() < 1e-4
    assert np.abs(played.after["c_i"].numpy() - quadratic.gradients(quadratic.x_star)).max() < 1e-3


def test_two_messages_up_and_c_down(lab: Any) -> None:
    """2 W d up and 2 W d down, a client and round."""
    session = lab.session("scaffold", rounds=2)
    assert all(m["bits_up"] == m["bits_down"] == 5 * 2 * 64 * 4 for m in metrics(session))
