"""FRECON: its round, written out again; x^{t-1}; two masks; where it goes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from compressors.randk import RandK
from fl_core.randomness import generator

RANDK = {"name": "randk", "k": 2}


@pytest.mark.parametrize("u_at", ["previous", "current"])
def test_rounds_written_out(lab: Any, u_at: str) -> None:
    """g^t, h_i, x^t with λ = S/(2(1+ω)n) = 0.1, α = 1/2, two of five clients, against NumPy, for 12 rounds."""
    table = {"name": "frecon", "u_at": u_at}
    session = lab.session(table, uplink=RANDK, sampling="uniform", per_round=2, rounds=12)
    quadratic, n, d, lam = lab.quadratic(session), lab.n, lab.d, 2 / (2 * 2 * 5)
    x, h, g, before = np.zeros(d), np.zeros((n, d)), np.zeros(d), np.zeros(d)
    for played in lab.play(session):
        t, S = played.server.round, list(played.participants)
        new, old = quadratic.gradients(x), quadratic.gradients(before)
        if t == 1:
            g = new.mean(0)
        else:
            q = compressed(new - old, S, t, 0)
            u = compressed((old if u_at == "previous" else new) - h, S, t, 1)
            g = q[S].mean(0) + (1 - lam) * g + lam * (u[S].mean(0) + h.mean(0))
            h[S] += 0.5 * u[S]
        before, x = x, x - 0.25 * g
        assert np.abs(played.server.x.numpy() - x).max() < 1e-13
        assert np.abs(played.after["h_i"].numpy() - h).max() < 1e-13
        assert np.abs(played.server.state.x_prev.numpy() - before).max() < 1e-13


def compressed(v: np.ndarray, S: list[int], t: int, call: int) -> np.ndarray:
    """C_i(v_i) of the participants, with the randomness of their `call`-th message in round t; `[n, d]`."""
    value = np.zeros_like(v)
    sources = [generator(3, t, i, "compress", call) for i in S]
    value[S] = RandK(k=2).encode(torch.tensor(v[S]), sources).value.numpy()
    return value


def test_downlink_and_uplink_bits(lab: Any) -> None:
    """x and x^{t-1} down; two messages up, once the initial round has sent whole gradients."""
    session = lab.session("frecon", uplink=RANDK, rounds=3)
    bits = [(played.bits_up, session.work.compressor.bits(lab.d, torch.float64)) for played in lab.play(session)]
    assert bits[0][0] == lab.n * 64 * lab.d
    assert bits[1][0] == bits[2][0] == 2 * lab.n * bits[1][1]


def test_with_several_local_steps_it_ends_where_fedavg_does(lab: Any) -> None:
    """Its first round is one of exact gradients, whatever τ is: the error that leaves is forgotten as (1-λ)^t."""
    x, quadratic = lab.final("frecon", local={"steps": 4}, rounds=60)
    assert np.linalg.norm(x - quadratic.fixed_point(0.25, 4)) < 1e-9


@pytest.mark.parametrize("u_at", ["previous", "current"])
def test_it_goes_to_the_minimiser(lab: Any, u_at: str) -> None:
    """Distinct minimisers, Rand-K, two of five clients."""
    table = {"name": "frecon", "u_at": u_at}
    changes: dict[str, Any] = {"sampling": "uniform", "per_round": 2, "server_lr": 0.8, "rounds": 250}
    x, quadratic = lab.final(table, uplink=RANDK, **changes)
    assert np.linalg.norm(x - quadratic.x_star) < 1e-4
