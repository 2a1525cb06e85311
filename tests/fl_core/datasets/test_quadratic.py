"""The synthetic quadratics: spectra, constants and minimisers, all recomputed from the tensors that come out."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch

from fl_core.datasets import FederatedData
from fl_core.datasets.quadratic import load
from fl_core.errors import ExperimentError


def hessians(data: FederatedData) -> np.ndarray:
    """H_i = (2/m) A_iᵀ A_i, `[n, d, d]`."""
    return np.stack([2 / len(a) * (a.T @ a).numpy() for a, _ in data.train])


def gradients(data: FederatedData, x: torch.Tensor) -> torch.Tensor:
    """∇f_i(x), `[n, d]`."""
    return torch.stack([2 / len(a) * a.T @ (a @ x - b) for a, b in data.train])


def value(data: FederatedData, x: torch.Tensor) -> float:
    """f(x)."""
    return float(np.mean([float((a @ x - b).square().mean()) for a, b in data.train]))


KINDS: list[dict[str, Any]] = [
    {"spectrum": spectrum, "homogeneous": homogeneous, "shared_minimizer": shared}
    for spectrum in ("f", "each")
    for homogeneous in (False, True)
    for shared in (False, True)
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_constants_are_exact(kind: dict[str, Any]) -> None:
    """L, L_i, mu against numerical eigenvalues, x* and f* against the gradient, to 1e-10, in all eight kinds."""
    data = load(clients=5, seed=3, d=7, L=4.0, mu=0.25, samples_per_client=11, **kind)
    constants, H = data.constants, hessians(data)
    np.testing.assert_allclose(constants.L_i.numpy(), [np.linalg.eigvalsh(h).max() for h in H], rtol=1e-10)
    whole = np.linalg.eigvalsh(H.mean(axis=0))
    assert pytest.approx(whole.max(), rel=1e-10) == constants.L
    assert constants.mu == pytest.approx(whole.min(), rel=1e-10)
    local = gradients(data, constants.x_star)
    assert float(local.mean(dim=0).norm()) <= 1e-12
    assert constants.f_star == pytest.approx(value(data, constants.x_star), rel=1e-12, abs=1e-25)
    assert constants.sigma_star_sq == pytest.approx(float(local.square().sum(dim=1).mean()), rel=1e-10, abs=1e-20)
    assert all(a.shape == (11, 7) and b.shape == (11,) and a.dtype == b.dtype == torch.float64 for a, b in data.train)


def test_prescribed_spectra() -> None:
    """With "f", f has linspace(mu, L, d) and L <= L_max <= n L; "each": every f_i has it and f lies between."""
    wanted = np.linspace(0.25, 4.0, 7)
    options = {"clients": 5, "seed": 3, "d": 7, "L": 4.0, "mu": 0.25, "samples_per_client": 11}
    pooled = load(**options, spectrum="f")
    np.testing.assert_allclose(np.linalg.eigvalsh(hessians(pooled).mean(axis=0)), wanted, rtol=1e-10)
    assert 4.0 <= pooled.constants.L_max <= 20.0
    assert pooled.constants.L_i.std() > 0.01
    each = load(**options, spectrum="each")
    for h in hessians(each):
        np.testing.assert_allclose(np.linalg.eigvalsh(h), wanted, rtol=1e-10)
    assert 0.25 < each.constants.mu < each.constants.L < 4.0


def test_homogeneous_clients_are_the_same() -> None:
    """All clients hold equal tensors, so all gradients agree; without it they do not."""
    same, different = (load(clients=4, seed=1, homogeneous=h) for h in (True, False))
    assert all(torch.equal(a, same.train[0][0]) and torch.equal(b, same.train[0][1]) for a, b in same.train)
    assert same.constants.sigma_star_sq == 0.0
    assert same.constants.f_star > 0
    assert not torch.equal(different.train[0][0], different.train[1][0])


def test_shared_and_distinct_minimisers() -> None:
    """Shared: every local gradient is 0 at x* and f* = 0. Distinct: clients pull apart, and f* > 0."""
    shared = load(clients=4, seed=1, shared_minimizer=True)
    assert float(gradients(shared, shared.constants.x_star).norm(dim=1).max()) <= 1e-13
    assert shared.constants.f_star == 0.0
    distinct = load(clients=4, seed=1)
    assert float(gradients(distinct, distinct.constants.x_star).norm(dim=1).min()) > 0.1
    assert distinct.constants.f_star > 0.1


@pytest.mark.parametrize("spectrum", ["f", "each"])
@pytest.mark.parametrize("shared", [True, False])
def test_fewer_rows_than_columns(spectrum: str, shared: bool) -> None:
    """mu = 0 with too few rows: rank as expected, L exact, x* stationary and of least norm."""
    data = load(clients=2, seed=5, d=9, mu=0.0, samples_per_client=3, spectrum=spectrum, shared_minimizer=shared)
    constants, H = data.constants, hessians(data).mean(axis=0)
    values, vectors = np.linalg.eigh(H)
    assert constants.mu == 0.0
    assert int((values > 1e-12).sum()) == 6
    assert pytest.approx(values.max(), rel=1e-10) == constants.L
    assert float(gradients(data, constants.x_star).mean(dim=0).norm()) <= 1e-12
    flat = vectors[:, values < 1e-12]
    assert np.abs(flat.T @ constants.x_star.numpy()).max() <= 1e-10


def test_directions_are_uniform() -> None:
    """Over 400 seeds the direction of the largest eigenvalue has mean square 1/d in each coordinate (within 5σ)."""
    d, seeds = 4, 400
    squares = np.zeros(d)
    for seed in range(seeds):
        H = hessians(load(clients=1, seed=seed, d=d, samples_per_client=5)).mean(axis=0)
        squares += np.linalg.eigh(H)[1][:, -1] ** 2 / seeds
    deviation = np.sqrt(2 * (d - 1) / (d * d * (d + 2)) / seeds)
    assert np.abs(squares - 1 / d).max() <= 5 * deviation


def test_the_seed_decides() -> None:
    """The same seed gives the same bytes, also on another machine; another seed other ones."""
    a, b, c = (load(clients=3, seed=seed, d=4, samples_per_client=6) for seed in (1, 1, 2))
    assert all(torch.equal(p[0], q[0]) and torch.equal(p[1], q[1]) for p, q in zip(a.train, b.train, strict=True))
    assert not torch.equal(a.train[0][0], c.train[0][0])
    digest = hashlib.sha256(b"".join(t.numpy().tobytes() for pair in a.train for t in pair)).hexdigest()
    assert digest == "a8fe669732865d933eea242960f6d01557eb3b483e4c68a0b7cf948cac9b99e3"


def test_one_dimension_and_one_client() -> None:
    """d = 1 has the single eigenvalue L; one client with spectrum "f" is the problem itself."""
    data = load(clients=1, seed=0, d=1, L=3.0, mu=1.0, samples_per_client=1)
    assert hessians(data)[0, 0, 0] == pytest.approx(3.0, rel=1e-14)
    assert data.constants.mu == data.constants.L == 3.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d": 0}, r"\[data\] d: must be at least 1"),
        ({"samples_per_client": 0}, "samples_per_client"),
        ({"L": 0.0}, r"\[data\] L"),
        ({"L": float("nan")}, r"\[data\] L"),
        ({"mu": 2.0}, r"\[data\] mu: must lie between 0 and L = 1"),
        ({"mu": -0.1}, r"\[data\] mu"),
        ({"spectrum": "all"}, "each"),
        ({"samples_per_client": 5, "spectrum": "each"}, "at least d = 20 rows, but samples_per_client = 5"),
        ({"samples_per_client": 5, "homogeneous": True}, "at least d = 20 rows, but samples_per_client = 5"),
        ({"samples_per_client": 4}, "clients × samples_per_client = 12"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    """Each wrong option: an ExperimentError that names the key and the way out."""
    with pytest.raises(ExperimentError, match=message):
        load(clients=3, seed=0, **options)
