"""GradSkip and ProxSkip: their fixed point, their invariant, and what resting clients save."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fl_core.errors import ExperimentError
from fl_core.reference import run_reference


def shifts(played: Any, p_over_gamma: float) -> np.ndarray:
    """h_i = (p/γ)(x - w_i) after a round, `[n, d]`."""
    return p_over_gamma * (played.server.x.numpy() - played.after["w_i"].numpy())


@pytest.mark.parametrize("q", [1.0, 0.7, [0.9, 0.5, 1.0, 0.2, 0.8]], ids=["proxskip", "one-q", "own-q"])
def test_it_goes_to_the_minimiser_and_the_shifts_to_the_gradients(lab: Any, q: Any) -> None:
    """Several local steps a round, no bias: x*, h_i = ∇f_i(x*), and Σ h_i = 0 after every round."""
    session = lab.session({"name": "gradskip", "p": 0.3, "q": q}, rounds=120)
    quadratic = lab.quadratic(session)
    for played in lab.play(session):
        assert np.abs(shifts(played, 0.3 / 0.25).sum(0)).max() < 1e-10
    star = quadratic.x_star
    assert np.abs(played.server.x.numpy() - star).max() < 1e-10
    assert np.abs(shifts(played, 0.3 / 0.25) - quadratic.gradients(star)).max() < 1e-9


def test_rounds_written_out(lab: Any) -> None:
    """Algorithm 1 iteration by iteration, coins and all, against NumPy: what a round folds is what the paper says."""
    p, gamma = 0.4, 0.25
    q = [0.6, 0.9, 1.0, 0.3, 0.7]
    session = lab.session({"name": "gradskip", "p": p, "q": q}, rounds=12)
    quadratic, n = lab.quadratic(session), lab.n
    x, h = np.zeros((n, lab.d)), np.zeros((n, lab.d))
    for played in lab.play(session):
        iterations, works = coins(session, played.server.round)
        for k in range(iterations):
            g = quadratic.gradients_at(x)
            on = np.array([[1.0 if k < works[i] else 0.0] for i in range(n)])
            h_hat = on * h + (1 - on) * g
            x_hat = x - gamma * (g - h_hat)
            met = np.tile((x_hat - gamma / p * h_hat).mean(0), (n, 1))
            x = met if k == iterations - 1 else x_hat
            h = h_hat + p / gamma * (x - x_hat)
        assert np.abs(played.server.x.numpy() - x[0]).max() < 1e-12
        assert np.abs(shifts(played, p / gamma) - h).max() < 1e-11


def coins(session: Any, t: int) -> tuple[int, list[int]]:
    """The iterations of round t, and how many of them each client's own coins let it work."""
    from fl_core.client import Client

    server, problem = session.server(), session.problem
    s = None
    server.begin_round(t)
    s = session.algorithm.client_state(server, 0)
    oracle = problem.oracle("cpu")
    clients = [Client(i, t, problem.shard(i), None, session.work, oracle) for i in range(problem.n)]
    return s.iterations, [session.algorithm.local_steps(client, s) for client in clients]


def test_iterations_and_rests_are_geometric(lab: Any) -> None:
    """E T = 1/p; a client with q works E min(T, G) = Σ_k ((1-p))^{k-1} q^k = q/(1 - q(1-p)) of them; within 5
    deviations."""
    p, q = 0.25, 0.8
    session = lab.session({"name": "gradskip", "p": p, "q": q})
    drawn = [coins(session, t) for t in range(1, 201)]
    iterations = np.array([t for t, _ in drawn])
    work = np.array([w for _, w in drawn])
    assert abs(iterations.mean() - 1 / p) < 5 * iterations.std() / 14
    assert abs(work.mean() - q / (1 - q * (1 - p))) < 5 * work.mean(1).std() / 14
    assert np.corrcoef(work[:, 0], work[:, 1])[0, 1] < 0.9  # clients toss coins of their own


def test_by_default_the_local_steps_are_the_mean_number_of_iterations(lab: Any) -> None:
    """p = 1/τ."""
    session = lab.session("gradskip", local={"steps": 4})
    server = session.server()
    server.begin_round(1)
    assert session.algorithm.client_state(server, 0).p_over_gamma == 0.25 / 0.25


def test_resting_clients_save_gradients(lab: Any) -> None:
    """q = 0.2 needs fewer oracle calls than q = 1, in the same rounds."""
    calls = []
    for q in (1.0, 0.2):
        session = lab.session({"name": "gradskip", "p": 0.2, "q": q}, rounds=40)
        calls.append(sum(m["oracle_calls"] for _, m in run_reference(session)))
    assert calls[1] < 0.6 * calls[0]


def test_one_q_a_client_or_an_error(lab: Any) -> None:
    """Three numbers for five clients are refused."""
    session = lab.session({"name": "gradskip", "q": [0.5, 0.5, 0.5]})
    with pytest.raises(ExperimentError, match="has 3 numbers for 5 clients"):
        next(run_reference(session))


def test_the_theorem_names_the_clients_step(lab: Any) -> None:
    """`lr = "theory"` on the server is refused, with the local step the theorem gives."""
    with pytest.raises(ExperimentError, match=r"set \[local\] lr to at most 0\.\d+"):
        lab.session({"name": "gradskip", "p": 0.4}, server_lr="theory")
