"""DIANA: its round, written out again, and where it goes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from compressors.randk import RandK
from fl_core.randomness import generator

RANDK = {"name": "randk", "k": 2}


def test_a_round_written_out(lab: Any) -> None:
    """m_i = C_i(∇f_i - h_i), G = h + mean m_i, h_i += α m_i, with α = 1/(1+ω) = K/d, against NumPy, for 15 rounds."""
    session = lab.session("diana", uplink=RANDK, server_lr=0.6, rounds=15)
    quadratic, n, d = lab.quadratic(session), lab.n, lab.d
    x, h = np.zeros(d), np.zeros((n, d))
    operator = RandK(k=2)
    for played in lab.play(session):
        difference = torch.tensor(quadratic.gradients(x) - h)
        sources = [generator(3, played.server.round, i, "compress", 0) for i in range(n)]
        m = operator.encode(difference, sources).value.numpy()
        x = x - 0.6 * 0.25 * (h.mean(0) + m.mean(0))
        h = h + 0.5 * m
        assert np.abs(played.server.x.numpy() - x).max() < 1e-13
        assert np.abs(played.after["h_i"].numpy() - h).max() < 1e-13


def test_it_goes_to_the_minimiser_itself(lab: Any) -> None:
    """Distinct minimisers, Rand-K, everyone or two of five: x* to 1e-7, and h_i to ∇f_i(x*)."""
    for participation in ({}, {"sampling": "uniform", "per_round": 2}):
        session = lab.session("diana", uplink=RANDK, server_lr=0.8, rounds=300, **participation)
        quadratic = lab.quadratic(session)
        *_, played = lab.play(session)
        assert np.abs(played.server.x.numpy() - quadratic.x_star).max() < 1e-7
        assert np.abs(played.after["h_i"].numpy() - quadratic.gradients(quadratic.x_star)).max() < 1e-6


def test_alpha_is_that_of_the_file(lab: Any) -> None:
    """With alpha = 0.1 the first shifts are a tenth of the first messages."""
    session = lab.session({"name": "diana", "alpha": 0.1}, rounds=1)
    (played,) = lab.play(session)
    expected = 0.1 * lab.quadratic(session).gradients(np.zeros(lab.d))
    assert np.abs(played.after["h_i"].numpy() - expected).max() < 1e-14
