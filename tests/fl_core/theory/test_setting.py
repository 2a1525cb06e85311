"""The noise of a mean over participants, against full enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from fl_core.errors import InputError
from fl_core.theory import Constants, Setting


def constants(n: int) -> Constants:
    """n clients with L_i = 1."""
    return Constants(L=1.0, L_i=torch.ones(n, dtype=torch.float64), mu=0.1)


def exact_noise(v: np.ndarray, s: int, omega: float) -> float:
    """E|(1/s) Σ_S C_i(v_i) - v̄|² over all subsets of size s, for operators whose variance is omega |v|²."""
    subsets = list(itertools.combinations(range(len(v)), s))
    sampling = np.mean([((v[list(S)].mean(axis=0) - v.mean(axis=0)) ** 2).sum() for S in subsets])
    compression = np.mean([omega * (v[list(S)] ** 2).sum() / s**2 for S in subsets])
    return float(sampling + compression)


@pytest.mark.parametrize("s", [1, 2, 3, 4])
def test_noise_is_attained_by_centred_vectors(s: int) -> None:
    """With v̄ = 0 the bound is an equality, without it an upper bound, for uniform sampling."""
    setting = Setting(constants(4), per_round=s, omega=1.5)
    v = np.random.default_rng(0).standard_normal((4, 3))
    assert exact_noise(v, s, 1.5) <= setting.noise(1.5) * (v**2).sum() / 4
    v -= v.mean(axis=0)
    assert exact_noise(v, s, 1.5) == pytest.approx(setting.noise(1.5) * (v**2).sum() / 4, rel=1e-12)


def test_poisson_noise_averages_over_the_sizes() -> None:
    """Poisson sampling: the expectation over all non-empty subsets, by enumeration of the 2^n of them."""
    q, omega = 0.35, 1.5
    v = np.random.default_rng(1).standard_normal((5, 3))
    v -= v.mean(axis=0)
    chances = {s: q**s * (1 - q) ** (5 - s) * len(list(itertools.combinations(range(5), s))) for s in range(1, 6)}
    expected = sum(chance * exact_noise(v, s, omega) for s, chance in chances.items()) / sum(chances.values())
    setting = Setting(constants(5), per_round=5 * q, sampling="poisson")
    assert setting.noise(omega) == pytest.approx(expected / (v**2).sum() * 5, rel=1e-12)


def test_noise_at_the_ends() -> None:
    """All clients: omega/n under every sampling; one client: omega; a large n does not overflow."""
    for sampling in ("uniform", "poisson", "full"):
        assert Setting(constants(4), per_round=4, sampling=sampling).noise(2.0) == 0.5
    assert Setting(constants(4), per_round=2, sampling="full").noise(2.0) == 0.5
    assert Setting(constants(1)).noise(2.0) == 2.0
    large = Setting(constants(100_000), per_round=100, sampling="poisson").noise(0.0)
    assert large == pytest.approx(0.01, rel=0.02)


def test_out_of_range_is_refused() -> None:
    """More participants than clients, negative omega, delta beyond 1, no local step."""
    for options in ({"per_round": 5}, {"per_round": 0}, {"omega": -0.1}, {"delta": 1.5}, {"delta": 0.0}, {"tau": 0}):
        with pytest.raises(InputError, match="need"):
            Setting(constants(4), **options)
