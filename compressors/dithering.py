"""What the dithering operators share: a norm, signs and s levels; and unbiased rounding to equal steps."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from compressors.compressor import CompressorOptionError
from compressors.norms import carrier
from compressors.quantizer import Quantizer


def check_levels(operator: str, s: object, most: int) -> None:
    """Raise CompressorOptionError unless s is an integer in [1, most]."""
    if isinstance(s, bool) or not isinstance(s, int) or not 1 <= s <= most:
        raise CompressorOptionError(f"{operator}: s = {s!r} must be an integer from 1 to {most}")


def spread(d: int, order: float) -> float:
    """a = d^{1/min(p, 2)}: |x|_p |x|_1 <= a |x|_2^2 for every x in R^d."""
    return float(d ** (1.0 / min(order, 2.0)))


def linear_omega(d: int, s: int, order: float) -> float:
    """The least of the bounds that hold for s equal steps of |x|_p; 0 at d = 1, where nothing is lost.

    From the exact variance |x|_p^2/s^2 sum r(1-r), r the fractional parts: r(1-r) <= r gives a/s, and
    r(1-r) <= 1/4 gives a^2/(4 s^2); for p = inf also (1 + sqrt d)/(2 s), and for TernGrad (s = 1)
    (sqrt d - 1)/2, attained.
    """
    if d == 1:
        return 0.0
    a = spread(d, order)
    bounds = [a / s, a * a / (4 * s * s)]
    if order == math.inf:
        bounds.append((1 + math.sqrt(d)) / (2 * s))
        if s == 1:
            bounds.append((math.sqrt(d) - 1) / 2)
    return min(bounds)


class Dithering(Quantizer):
    """sign(x_j) |x|_p times a random level of |x_j|/|x|_p: W bits of norm, then sign and level a coordinate.

    Norm and probabilities are computed in float32 or better; the norm travels as float32 (float64 for
    float64 vectors).
    """

    @property
    @abstractmethod
    def levels(self) -> int:
        """s: levels above 0."""

    def width(self, dtype: torch.dtype) -> int:
        """1 + ceil log2(s + 1)."""
        return 1 + self.levels.bit_length()

    def noise_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """As wide as the carrier."""
        return torch.int64 if dtype is torch.float64 else torch.int32

    def signed(self, magnitudes: Tensor, codes: Tensor, dtype: torch.dtype) -> Tensor:
        """The values: `magnitudes` (carrier) with the codes' signs, at most the largest finite of `dtype`."""
        integer = torch.int64 if magnitudes.dtype is torch.float64 else torch.int32
        sign, top = self.levels.bit_length(), 8 * integer.itemsize - 1
        magnitudes.view(integer).bitwise_or_((codes & (1 << sign)).to(integer) << (top - sign))
        values = magnitudes.add_(0.0)  # -0 + 0 = 0: a level 0 has no sign
        if dtype is values.dtype:
            return values
        largest = torch.finfo(dtype).max
        return values.clamp_(-largest, largest).to(dtype)

    def sign_bits(self, x: Tensor) -> Tensor:
        """The sign of `x` (carrier) at its place in the code: integers of the same size."""
        integer = torch.int64 if x.dtype is torch.float64 else torch.int32
        sign, top = self.levels.bit_length(), 8 * integer.itemsize - 1
        return (x.view(integer) >> (top - sign)).bitwise_and_(1 << sign)


class LinearDithering(Dithering):
    """Levels 0, 1/s, ..., 1 of the norm.

    s |x_j|/|x|_p is rounded to a fixed-point number with a fraction of 31 - ceil log2(s+1) bits (63 for
    float64) and as many random bits are added: E C(x) = x up to 2^-31 |x|_p and the float rounding of values.
    """

    def to_codes(self, x: Tensor, norms: Tensor, noise: Tensor) -> Tensor:
        """The level is the integer part after random bits were added to the fraction."""
        bits = self.levels.bit_length()
        fraction = 8 * noise.dtype.itemsize - 1 - bits
        x = x.to(norms.dtype)
        y = (x / norms).abs_()
        noise &= (1 << fraction) - 1
        noise += y.mul_(float(self.levels << fraction)).round_().to(noise.dtype)
        noise >>= fraction
        noise |= self.sign_bits(x)
        return noise

    def to_values(self, codes: Tensor, norms: Tensor, dtype: torch.dtype) -> Tensor:
        """|x|_p l / s; divided first, so that level s is the norm itself."""
        levels = codes & ((1 << self.levels.bit_length()) - 1)
        # A GPU multiplies by the reciprocal of a plain number, which rounds otherwise than the receiver divides.
        s = self.levels if codes.device.type == "cpu" else torch.full_like(norms, self.levels)
        magnitudes = levels.to(carrier(dtype)).div_(s).mul_(norms)
        return self.signed(magnitudes, codes, dtype)
