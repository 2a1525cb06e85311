"""A linear model on clients' data, as the theory sees it: matrices in float64, one weight a sample.

    f(x) = (1/n) Σ_i f_i(x),   f_i(x) = (1/m_i) Σ_j ℓ(a_ijᵀ x, b_ij) + r(x)

ℓ is (t - b)² for "mse", log(1 + exp(-b t)) with b = ±1 for "logistic", and the softmax loss for
"cross_entropy" (x then holds one weight vector a class). r is 0, (α/2)|x|² ("l2") or α Σ x_j²/(1 + x_j²)
("nonconvex"), over all of x, bias included. With a bias, a 1 is appended to each a_ij: the flat x of
`torch.nn.Linear` is its weight, then its bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import expit
from torch import Tensor

from fl_core.errors import InputError

Floats: TypeAlias = npt.NDArray[np.float64]
Loss: TypeAlias = Literal["mse", "logistic", "cross_entropy"]
Penalty: TypeAlias = Literal["none", "l2", "nonconvex"]

CURVATURE: dict[Loss, float] = {"mse": 2.0, "logistic": 0.25, "cross_entropy": 0.5}
"""The largest second derivative of ℓ in its score; for the softmax ½ bounds diag(p) - ppᵀ (Böhning, 1992)."""


@dataclass(frozen=True, eq=False)
class LinearProblem:
    """f of the module's docstring.

    Args:
        clients: for each client its inputs `[m_i, ...]` (flattened to `[m_i, features]`) and targets `[m_i]`.
        loss: "mse", "logistic" or "cross_entropy".
        penalty: the regulariser, "none", "l2" or "nonconvex", with its weight `alpha`.
        bias: whether the model has one.

    Raises InputError where a target is not ±1 for "logistic", or a client's targets are not one number a
    sample.
    """

    clients: Sequence[tuple[Tensor, Tensor]]
    loss: Loss = "mse"
    penalty: Penalty = "none"
    alpha: float = 0.0
    bias: bool = False

    def __post_init__(self) -> None:
        if self.loss not in CURVATURE:
            raise InputError(f"no theory for the loss {self.loss!r}; there is for {', '.join(CURVATURE)}")
        if self.penalty not in ("none", "l2", "nonconvex"):
            raise InputError(f"no theory for the regulariser {self.penalty!r}; known: none, l2, nonconvex")
        if not self.alpha >= 0:
            raise InputError(f"a regulariser's alpha must be a number >= 0, not {self.alpha!r}")
        for client, (inputs, targets) in enumerate(self.clients):
            if len(inputs) == 0 or targets.numel() != len(inputs):
                raise InputError(
                    f"client {client}: {len(inputs)} inputs and {targets.numel()} target numbers; "
                    "the theory of linear models needs one number a sample"
                )
            if self.loss == "logistic" and not bool((targets.abs() == 1).all()):
                raise InputError(f"client {client}: the logistic loss needs targets -1 and +1")

    @property
    def n(self) -> int:
        """Number of clients."""
        return len(self.clients)

    def design(self, client: int) -> Floats:
        """The rows a_ij of one client, float64 `[m_i, d]`."""
        inputs = self.clients[client][0]
        rows: Floats = inputs.detach().reshape(len(inputs), -1).cpu().double().numpy()
        return np.hstack([rows, np.ones((len(rows), 1))]) if self.bias else rows

    def targets(self, client: int) -> Floats:
        """The b_ij of one client, float64 `[m_i]`."""
        column: Floats = self.clients[client][1].detach().reshape(-1).cpu().double().numpy()
        return column

    def stacked(self) -> tuple[Floats, Floats, Floats]:
        """All rows `[M, d]`, their targets `[M]`, and their weights 1/(n m_i) `[M]` in f."""
        rows = [self.design(i) for i in range(self.n)]
        weights = [np.full(len(a), 1.0 / (self.n * len(a))) for a in rows]
        targets = np.concatenate([self.targets(i) for i in range(self.n)])
        return np.concatenate(rows), targets, np.concatenate(weights)

    def client_gradients(self, x: Floats) -> Floats:
        """∇f_i(x) of every client, `[n, d]`; "mse" and "logistic" only."""
        rows = []
        for i in range(self.n):
            a = self.design(i)
            rows.append(a.T @ slopes(self.loss, a @ x, self.targets(i)) / len(a) + self.penalty_gradient(x))
        return np.stack(rows)

    def penalty_gradient(self, x: Floats) -> Floats:
        """∇r(x), `[d]`."""
        if self.penalty == "l2":
            return self.alpha * x
        if self.penalty == "nonconvex":
            return 2.0 * self.alpha * x / (1.0 + x**2) ** 2
        return np.zeros_like(x)


def slopes(loss: Loss, scores: Floats, targets: Floats) -> Floats:
    """∂ℓ/∂t at each score t, `[M]`."""
    if loss == "mse":
        return 2.0 * (scores - targets)
    if loss == "logistic":
        wrong: Floats = expit(-targets * scores)
        return -targets * wrong
    raise InputError(f"the loss {loss!r} has more than one score a sample: no solver for it here")


__all__ = ["CURVATURE", "Floats", "LinearProblem", "Loss", "Penalty", "slopes"]
