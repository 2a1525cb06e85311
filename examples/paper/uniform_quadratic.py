"""The synthetic problem of arXiv 2202.03099, section 4: f_i(x) = (1/m)|A_i x - b_i|², entries drawn from U[0, 1].

The singular values of A are replaced, so that the Hessian has the eigenvalues linspace(mu, L, d). The directions stay
as they were drawn: the one that uniform entries favour gets mu, and b, all positive, points along it. With x^0 near 0
this gives the level at which the published curves start (docs/paper.md). For everything else there is
`fl_core/datasets/quadratic.py`.
"""

from __future__ import annotations

import numpy as np
import torch

from fl_core import FederatedData
from fl_core.options import Count, NonNegative, Positive
from fl_core.randomness import numpy_generator

_GRID = 2.0**24
"""A and b are rounded to this grid (float32, as the original's data), which hides the last digits of each LAPACK."""


def load(  # noqa: PLR0913  (each is an option of [data])
    *,
    clients: int,
    seed: int,
    d: Count = 20,
    L: Positive = 2.0,
    mu: NonNegative = 1.0,
    samples_per_client: Count = 50,
    homogeneous: bool = False,
) -> FederatedData:
    """Inputs `[m, d]` and targets `[m]` a client.

    Args:
        homogeneous: all clients hold the same A_i, b_i, whose Hessian has the spectrum. Otherwise the matrix of all
            clients together has it, is cut into blocks, and both curvature and minimiser differ between clients.
    """
    rows = samples_per_client * (1 if homogeneous else clients)
    source = numpy_generator(seed, "uniform quadratic")
    left, singular, right = np.linalg.svd(source.random((rows, d)), full_matrices=False)
    eigenvalues = np.linspace(mu, L, len(singular))  # ascending, while the singular values descend: see above
    a = _rounded((left * np.sqrt(0.5 * rows * eigenvalues)) @ right)
    b = _rounded(np.sqrt(0.5 * rows) * source.random(rows))
    if homogeneous:
        return FederatedData(train=[(a, b)] * clients)
    blocks = [slice(start, start + samples_per_client) for start in range(0, rows, samples_per_client)]
    return FederatedData(train=[(a[block], b[block]) for block in blocks])


def _rounded(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.round(values * _GRID) / _GRID)
