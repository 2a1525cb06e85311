"""Natural dithering: levels of a p-norm at powers of two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from compressors.dithering import Dithering, check_levels, spread
from compressors.norms import carrier, check_order

# carrier: (integer type, mantissa bits, exponent of 1.0)
_FORMAT = {torch.float32: (torch.int32, 23, 127), torch.float64: (torch.int64, 52, 1023)}


@dataclass(frozen=True)
class NaturalDithering(Dithering):
    """Levels 0, 2^{1-s}, ..., 1/2, 1 of |x|_p, linear probabilities between; W + d (1 + ceil log2(s+1)) bits.

    omega <= 1/8 + a 2^{1-s} min{1, a 2^{1-s}}, a = d^{1/min(p,2)} (Horváth et al. 2019, 1905.10988;
    re-derived: above the lowest level l = 2^{1-s} natural rounding gives x_j^2/8, below it the variance is at
    most l |x|_p |x_j| and at most l^2 |x|_p^2/4). s: levels, 1 to 100. norm: p, a number >= 1 or "inf".
    """

    s: int
    norm: float | str = 2

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"s": 8},
        {"s": 1, "norm": 1},
        {"s": 3, "norm": "inf"},
        {"s": 100, "norm": 2},
    )

    def __post_init__(self) -> None:
        check_levels("natural-dithering", self.s, 100)
        check_order("natural-dithering", self.norm)

    @property
    def levels(self) -> int:
        """s."""
        return self.s

    @property
    def order(self) -> float:
        """p."""
        return float(self.norm)

    def to_codes(self, x: Tensor, norms: Tensor, noise: Tensor) -> Tensor:
        """Random bits added to the mantissa carry into the exponent; a fixed point below the lowest level."""
        integer, mantissa, one = _FORMAT[norms.dtype]
        x = x.to(norms.dtype)
        y = (x / norms).abs_()
        # As integers, floats grow by 2^mantissa with every doubling: y's own bits count levels from the lowest
        # one up. Below it the bits of y + lowest are the straight line to 0, and they are the larger there.
        lowest = (one + 1 - self.s) << mantissa
        line = (y + 2.0 ** (1 - self.s)).view(integer)
        curve = y.view(integer).add_(1 << mantissa)
        noise &= (1 << mantissa) - 1
        noise += torch.maximum(line, curve, out=line).sub_(lowest)
        noise >>= mantissa
        noise |= self.sign_bits(x)
        return noise

    def to_values(self, codes: Tensor, norms: Tensor, dtype: torch.dtype) -> Tensor:
        """Level i > 0 is 2^{i-s} |x|_p."""
        integer, mantissa, one = _FORMAT[carrier(dtype)]
        levels = (codes & ((1 << self.s.bit_length()) - 1)).to(integer)
        powers = ((levels + (one - self.s)) << mantissa).mul_(levels.clamp(max=1))
        return self.signed(powers.view(carrier(dtype)).mul_(norms), codes, dtype)

    def omega(self, d: int) -> float:
        """1/8 + a 2^{1-s} min{1, a 2^{1-s}}; 0 at d = 1."""
        if d == 1:
            return 0.0
        low = spread(d, self.order) * 2.0 ** (1 - self.s)
        return 0.125 + low * min(1.0, low)
