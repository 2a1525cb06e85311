"""MARINA: its rounds, written out again; synchronisations; stochastic gradients on the same samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from compressors.randk import RandK
from fl_core.randomness import generator

RANDK = {"name": "randk", "k": 1}


def test_rounds_written_out(lab: Any) -> None:
    """g^{t-1} + mean C_i(∇f_i(x^t) - ∇f_i(x^{t-1})) between synchronisations, against NumPy, for 25 rounds.

    Bits: W d from everyone in a synchronisation, B(C) otherwise.
    """
    session = lab.session({"name": "marina", "p": 0.3}, uplink=RANDK, server_lr=0.6, rounds=25)
    quadratic, n, d = lab.quadratic(session), lab.n, lab.d
    x, g, before, syncs = np.zeros(d), np.zeros(d), np.zeros(d), 0
    for played in lab.play(session):
        t = played.server.round
        if played.bits_up == n * 64 * d:
            syncs += 1
            g = quadratic.gradients(x).mean(0)
        else:
            assert played.bits_up == n * session.work.compressor.bits(d, torch.float64)
            change = torch.tensor(quadratic.gradients(x) - quadratic.gradients(before))
            sources = [generator(3, t, i, "compress", 0) for i in range(n)]
            g = g + RandK(k=1).encode(change, sources).value.numpy().mean(0)
        before, x = x, x - 0.6 * 0.25 * g
        assert np.abs(played.server.x.numpy() - x).max() < 1e-13
    assert 3 <= syncs <= 15  # 1 + 24 · 0.3 = 8.2 on average


def test_p_is_by_default_that_of_the_compressor(lab: Any) -> None:
    """1/(1+ω): K/d of 400 rounds (the first aside) within 5 standard deviations."""
    session = lab.session("marina", uplink=RANDK)
    server, coins = session.server(), 0
    for t in range(2, 402):
        server.begin_round(t)
        coins += session.algorithm.coin(server)
    assert abs(coins - 100) < 5 * (400 * 0.25 * 0.75) ** 0.5


def test_a_synchronisation_takes_all_clients(lab: Any) -> None:
    """With two of five clients: whole gradients from all five, compressed differences from the two; x* is reached."""
    session = lab.session("marina", uplink=RANDK, sampling="uniform", per_round=2, server_lr=0.6, rounds=200)
    sizes = set()
    for played in lab.play(session):
        whole = played.bits_up == len(played.participants) * 64 * lab.d
        sizes.add((whole, len(played.participants)))
    assert sizes == {(True, 5), (False, 2)}
    assert np.abs(played.server.x.numpy() - lab.quadratic(session).x_star).max() < 1e-6


def test_stochastic_gradients_are_taken_on_the_same_samples(lab: Any) -> None:
    """VR-MARINA: full gradients at synchronisations, else minibatch differences that vanish with x^t - x^{t-1}: x*
    itself.

    With different samples at the two points the noise would stay, and x would not settle.
    """
    local = {"gradient": "nice", "tau": 2}
    x, quadratic = lab.final({"name": "marina", "p": 0.2}, local=local, server_lr=0.5, rounds=250)
    assert np.linalg.norm(x - quadratic.x_star) < 1e-6
