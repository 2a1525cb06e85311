"""A step size with the formula it came from, so that a log can print both."""

from __future__ import annotations

from dataclasses import dataclass

from fl_core.errors import ExperimentError
from fl_core.theory.setting import Setting


@dataclass(frozen=True)
class Step:
    """What a theorem allows.

    Args:
        gamma: the largest step it allows for x+ = x - gamma G; with local steps, gamma = η_g η_l τ.
        formula: the formula, and the numbers it was evaluated with.
        reference: authors, year, arXiv number, theorem; and how far it was confirmed.
        rate: the factor by which the theorem's Lyapunov function falls each round at this step, where it is
            linear.
    """

    gamma: float
    formula: str
    reference: str
    rate: float | None = None


class NoTheoremError(ExperimentError):
    """`lr = "theory"` was asked for where no theorem gives a step; the text says what is missing."""

    def __init__(self, message: str) -> None:
        super().__init__(f'{message}; give a number instead of "theory"', path="server.optimizer.lr")


def step(gamma: float, formula: str, numbers: dict[str, float], reference: str, rate: float | None = None) -> Step:
    """A Step whose formula ends with its numbers: `gamma = 1/(L + ...) = 0.5, with L = 2, ...`."""
    listed = ", ".join(f"{name} = {value:.6g}" for name, value in numbers.items())
    return Step(gamma, f"gamma = {formula} = {gamma:.6g}, with {listed}", reference, rate)


def unbiased(setting: Setting, method: str) -> float:
    """omega. Raises NoTheoremError where the operator is biased or there are several local steps."""
    single(setting, method)
    if setting.omega is None:
        raise NoTheoremError(f"the theorem of {method} needs an unbiased uplink compressor (its omega)")
    return setting.omega


def contraction(setting: Setting, method: str) -> float:
    """delta. Raises NoTheoremError where the operator is no contraction or there are several local steps."""
    single(setting, method)
    if setting.delta is None:
        raise NoTheoremError(f"the theorem of {method} needs a contractive uplink compressor (its delta)")
    return setting.delta


def single(setting: Setting, method: str) -> None:
    """Raises NoTheoremError if there are several local steps."""
    if setting.tau != 1:
        raise NoTheoremError(f"no theorem covers {method} with {setting.tau} local steps")


def full(setting: Setting, method: str, instead: str) -> None:
    """Raises NoTheoremError if not every client takes part in every round."""
    if setting.n != setting.S:
        raise NoTheoremError(f"the theorem of {method} needs all clients in every round ({instead})")


def never_empty(setting: Setting, method: str) -> None:
    """Raises NoTheoremError under Poisson sampling, for methods that move x even when nobody took part."""
    if setting.sampling == "poisson" and setting.n != setting.S:
        raise NoTheoremError(f"the theorem of {method} does not cover the empty rounds of Poisson sampling")


def gradient_descent(setting: Setting, reference: str = "gradient descent: the descent lemma") -> Step:
    """gamma = 1/L: f falls by (γ/2)|∇f|² a step; |x - x*|² shrinks by 1 - γ mu if f is mu-strongly convex.

    Derived here (the descent lemma); it is what every method below is without compression and with all
    clients.
    """
    c = setting.constants
    return step(1.0 / c.L, "1/L", {"L": c.L}, reference, _factor(1.0 - c.mu / c.L, c.mu))


def _factor(rate: float, mu: float) -> float | None:
    return rate if mu > 0 else None


__all__ = [
    "NoTheoremError",
    "Step",
    "contraction",
    "full",
    "gradient_descent",
    "never_empty",
    "single",
    "step",
    "unbiased",
]
