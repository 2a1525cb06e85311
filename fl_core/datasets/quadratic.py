"""Synthetic quadratics whose L, L_i, mu, x* are known: f_i(x) = (1/m)|A_i x - b_i|², model "linear", no bias.

H_i = (2/m) A_iᵀ A_i. Eigenvalues linspace(mu, L, d) are prescribed for f, or for each f_i; directions are
drawn uniformly. Nothing here goes through BLAS or LAPACK but the constants: a product of reflections, summed
in a fixed order, gives the same bytes on every machine.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from fl_core.datasets import FederatedData, Pair
from fl_core.errors import ExperimentError
from fl_core.randomness import numpy_generator
from fl_core.theory.constants import Constants
from fl_core.theory.linear import Floats, LinearProblem
from fl_core.theory.minimizer import solved


def load(  # noqa: PLR0913  (each is an option of [data])
    *,
    data_root: Path | None = None,
    clients: int,
    seed: int,
    d: int = 20,
    L: float = 1.0,
    mu: float = 0.1,
    samples_per_client: int = 50,
    spectrum: Literal["f", "each"] = "f",
    homogeneous: bool = False,
    shared_minimizer: bool = False,
) -> FederatedData:
    """Least squares with prescribed spectra: float64 inputs `[m, d]`, targets `[m]` a client; exact `constants`.

    Args:
        data_root: not used; nothing is read.
        clients: n.
        seed: of the run.
        d: number of parameters.
        L: largest eigenvalue.
        mu: smallest eigenvalue.
        samples_per_client: m.
        spectrum: "f": f has the eigenvalues, and L_i lie below n L; "each": each f_i has them, in directions
            of its own, and those of f lie between mu and L.
        homogeneous: all clients hold the same data (both spectra then mean the same).
        shared_minimizer: b_i = A_i x̂ for one x̂, so that every f_i is least, and 0, at x* = x̂. Otherwise
            b_i = A_i (x̂ + z_i) + e_i with standard normal z_i, e_i: minimisers differ, and f* > 0.

    Fewer than d rows (n m of them for spectrum "f", m otherwise) leave f flat in some directions: with mu = 0
    the smallest eigenvalues of linspace(0, L, d) are replaced by 0, and x* is the minimiser of least norm.

    Raises ExperimentError if L, mu, d or m is out of range, or if mu > 0 with fewer than d rows.
    """
    shape = _Shape(clients, samples_per_client, d, pooled=spectrum == "f" and not homogeneous)
    eigenvalues = _eigenvalues(L, mu, shape)
    if spectrum not in ("f", "each"):
        raise ExperimentError(f'must be "f" or "each", not {spectrum!r}', path="data.spectrum")
    blocks = _matrices(eigenvalues, shape, 1 if homogeneous else clients, seed)
    centre = numpy_generator(seed, "quadratic", "centre").standard_normal(d)
    train: list[Pair] = []
    for i, a in enumerate(blocks):
        source, local = numpy_generator(seed, "quadratic", "noise", i), centre
        noise: Floats = np.zeros(len(a))
        if not shared_minimizer:
            local, noise = centre + source.standard_normal(d), source.standard_normal(len(a))
        train.append((torch.from_numpy(a), torch.from_numpy(_times(a, local) + noise)))
    constants = _constants(train, eigenvalues, shape.pooled, centre if shared_minimizer else None)
    if homogeneous:
        train = train * clients
        constants = dataclasses.replace(constants, L_i=constants.L_i.repeat(clients), sigma_star_sq=0.0)
    return FederatedData(train=train, constants=constants)


@dataclasses.dataclass(frozen=True)
class _Shape:
    n: int
    m: int
    d: int
    pooled: bool

    @property
    def rows(self) -> int:
        """Rows of the matrix that has the spectrum."""
        return self.n * self.m if self.pooled else self.m


def _eigenvalues(L: float, mu: float, shape: _Shape) -> Floats:
    """Ascending `[d]`. Raises ExperimentError."""
    for name, count in (("d", shape.d), ("samples_per_client", shape.m)):
        if count < 1:
            raise ExperimentError(f"must be at least 1, not {count}", path=f"data.{name}")
    if not (0 < L < math.inf):
        raise ExperimentError(f"must be a number > 0, not {L}", path="data.L")
    if not 0 <= mu <= L:
        raise ExperimentError(f"must lie between 0 and L = {L:g}, not {mu}", path="data.mu")
    if mu > 0 and shape.rows < shape.d:
        whose = "clients × samples_per_client" if shape.pooled else "samples_per_client"
        raise ExperimentError(
            f"mu > 0 needs at least d = {shape.d} rows, but {whose} = {shape.rows}; "
            "raise samples_per_client, or set mu = 0",
            path="data.samples_per_client",
        )
    values = np.linspace(mu, L, shape.d) if shape.d > 1 else np.array([L])
    values[: max(0, shape.d - shape.rows)] = 0.0
    return values


def _matrices(eigenvalues: Floats, shape: _Shape, copies: int, seed: int) -> list[Floats]:
    """The A_i, `[m, d]` each, of the clients that differ."""
    if shape.pooled:
        whole = _with_spectrum(eigenvalues, shape.rows, numpy_generator(seed, "quadratic", "directions"))
        return list(whole.reshape(shape.n, shape.m, shape.d))
    sources = (numpy_generator(seed, "quadratic", "directions", i) for i in range(copies))
    return [_with_spectrum(eigenvalues, shape.rows, source) for source in sources]


def _with_spectrum(eigenvalues: Floats, rows: int, source: np.random.Generator) -> Floats:
    """A random `[rows, d]` A = U diag(sqrt(rows λ/2)) Vᵀ: (2/rows) AᵀA has these eigenvalues."""
    d = len(eigenvalues)
    kept = min(rows, d)
    scales = np.sqrt(0.5 * rows * eigenvalues[d - kept :]) * source.choice([-1.0, 1.0], size=kept)
    right = np.zeros((d, kept))
    right[np.arange(kept), np.arange(kept)] = scales
    _rotate(right, list(_reflectors(d, kept, source)))
    a = np.zeros((rows, d))
    a[:kept] = right.T
    _rotate(a, list(_reflectors(rows, kept, source)))
    return a


def _reflectors(size: int, count: int, source: np.random.Generator) -> Iterator[Floats]:
    """Unit vectors v_k `[size - k]` whose reflections, last one first, make `count` orthonormal columns.

    Uniformly distributed up to the signs of the columns (Stewart, 1980, SIAM J. Numer. Anal. 17).
    """
    for k in range(count):
        v = source.standard_normal(size - k)
        v[0] += math.copysign(_norm(v), v[0])
        yield v / _norm(v)


def _rotate(a: Floats, reflectors: list[Floats]) -> None:
    """Apply I - 2vvᵀ to the last rows of `a`, in place, for each v from the last to the first."""
    for v in reversed(reflectors):
        below = a[len(a) - len(v) :]
        below -= (2.0 * v)[:, None] * (v[:, None] * below).sum(axis=0)


def _norm(v: Floats) -> float:
    """|v|, correctly rounded but for the root: the same on every machine."""
    return math.sqrt(math.fsum((v * v).tolist()))


def _times(a: Floats, x: Floats) -> Floats:
    """A x, summed column by column: BLAS may sum in an order of its own on each machine."""
    product: Floats = (np.ascontiguousarray(a.T) * x[:, None]).sum(axis=0)
    return product


def _constants(train: list[Pair], eigenvalues: Floats, pooled: bool, shared: Floats | None) -> Constants:
    """Those of the clients given: prescribed numbers where there are, computed ones elsewhere."""
    constants = solved(LinearProblem(train, "mse"))
    lowest, highest = float(eigenvalues[0]), float(eigenvalues[-1])
    if pooled or len(train) == 1:
        constants = dataclasses.replace(constants, L=highest, mu=lowest)
    if not pooled:
        constants = dataclasses.replace(constants, L_i=torch.full_like(constants.L_i, highest))
    if shared is not None:
        constants = dataclasses.replace(constants, f_star=0.0, sigma_star_sq=0.0)
        if constants.mu > 0:
            constants = dataclasses.replace(constants, x_star=torch.from_numpy(shared))
    return constants


__all__ = ["load"]
