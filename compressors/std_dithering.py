"""Standard dithering: s equal steps of a p-norm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from compressors.dithering import LinearDithering, check_levels, linear_omega
from compressors.norms import check_order


@dataclass(frozen=True)
class StdDithering(LinearDithering):
    """y = |x|/|x|_p, l = floor(s y): sign(x) |x|_p (l + Bernoulli(s y - l))/s.

    W + d (1 + ceil log2(s+1)) bits.
    omega <= min{a/s, a^2/(4 s^2)}, a = d^{1/min(p,2)}; for p = inf also (1 + sqrt d)/(2 s) (derived).
    s: levels, 1 to 65535. norm: p, a number >= 1 or "inf".
    """

    s: int
    norm: float | str = 2

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"s": 4},
        {"s": 1, "norm": 1},
        {"s": 3, "norm": "inf"},
        {"s": 255, "norm": 3.5},
    )

    def __post_init__(self) -> None:
        check_levels("std-dithering", self.s, 65535)
        check_order("std-dithering", self.norm)

    @property
    def levels(self) -> int:
        """s."""
        return self.s

    @property
    def order(self) -> float:
        """p."""
        return float(self.norm)

    def omega(self, d: int) -> float:
        """The least of the bounds above."""
        return linear_omega(d, self.s, self.order)
