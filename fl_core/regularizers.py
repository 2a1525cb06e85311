"""Regularizers R(x) that are added to every f_i, as functions of the flat parameter vector.

`x` is `[d]`, or `[G, d]` for G clients at once: sums run over the last dimension. Names as in [model]
regularizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fl_core.experiment.schema import PlugIn
from fl_core.options import NonNegative


class Regularizer(Protocol):
    """R, its gradient, and its constants."""

    def value(self, x: Tensor) -> Tensor:
        """R(x): `[]` for x `[d]`, `[G]` for x `[G, d]`."""
        ...

    def gradient(self, x: Tensor) -> Tensor:
        """∇R(x), of the shape of x."""
        ...

    @property
    def smoothness(self) -> float:
        """The Lipschitz constant of ∇R: what R adds to every L_i at most."""
        ...

    @property
    def strong_convexity(self) -> float:
        """What R adds to mu, 0 if it is not strongly convex."""
        ...


@dataclass(frozen=True)
class NoRegularizer:
    """R(x) = 0."""

    def value(self, x: Tensor) -> Tensor:
        """0."""
        return x.new_zeros(x.shape[:-1])

    def gradient(self, x: Tensor) -> Tensor:
        """0."""
        return torch.zeros_like(x)

    @property
    def smoothness(self) -> float:
        """0."""
        return 0.0

    @property
    def strong_convexity(self) -> float:
        """0."""
        return 0.0


@dataclass(frozen=True)
class L2:
    """R(x) = alpha/2 ‖x‖², ∇R(x) = alpha x."""

    alpha: NonNegative

    def value(self, x: Tensor) -> Tensor:
        """alpha/2 ‖x‖²."""
        return (0.5 * self.alpha) * (x * x).sum(-1)

    def gradient(self, x: Tensor) -> Tensor:
        """alpha x."""
        return self.alpha * x

    @property
    def smoothness(self) -> float:
        """alpha."""
        return self.alpha

    @property
    def strong_convexity(self) -> float:
        """alpha."""
        return self.alpha


@dataclass(frozen=True)
class Nonconvex:
    """R(x) = alpha Σ_j x_j²/(1 + x_j²), ∇R(x)_j = 2 alpha x_j/(1 + x_j²)².

    The second derivative 2 alpha (1 − 3x²)/(1 + x²)³ lies in [−alpha/2, 2 alpha]: ∇R is 2 alpha-Lipschitz.
    """

    alpha: NonNegative

    def value(self, x: Tensor) -> Tensor:
        """alpha Σ_j x_j²/(1 + x_j²)."""
        squares = x * x
        return self.alpha * (squares / (1 + squares)).sum(-1)

    def gradient(self, x: Tensor) -> Tensor:
        """2 alpha x_j/(1 + x_j²)² for every j."""
        return (2 * self.alpha) * x / (1 + x * x).square()

    @property
    def smoothness(self) -> float:
        """2 alpha, reached at x = 0."""
        return 2 * self.alpha

    @property
    def strong_convexity(self) -> float:
        """0: it is not convex."""
        return 0.0


REGULARIZERS: dict[str, type[NoRegularizer] | type[L2] | type[Nonconvex]] = {
    "none": NoRegularizer,
    "l2": L2,
    "nonconvex": Nonconvex,
}


def regularizer(plug: PlugIn) -> Regularizer:
    """The regularizer of an experiment; its options are those `fl_core.experiment.checking` has checked."""
    return REGULARIZERS[plug.name](**plug.options)
