"""QSGD: s equal steps of the Euclidean norm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from compressors.dithering import LinearDithering, check_levels, linear_omega


@dataclass(frozen=True)
class Qsgd(LinearDithering):
    """Standard dithering with p = 2: omega <= min{d/(4 s^2), sqrt(d)/s}; W + d (1 + ceil log2(s+1)) bits.

    Alistarh et al. 2017, 1610.02132, Lemma 3.1 (with d/s^2; the 4 is derived). Their Elias code, shorter for
    small s, is not used. s: levels, 1 to 65535.
    """

    s: int

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"s": 4}, {"s": 1}, {"s": 300})

    def __post_init__(self) -> None:
        check_levels("qsgd", self.s, 65535)

    @property
    def levels(self) -> int:
        """s."""
        return self.s

    @property
    def order(self) -> float:
        """2."""
        return 2.0

    def omega(self, d: int) -> float:
        """min{d/(4 s^2), sqrt(d)/s}; 0 at d = 1."""
        return linear_omega(d, self.s, 2.0)
