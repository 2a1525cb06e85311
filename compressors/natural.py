"""Natural compression: round every coordinate to a power of two, at random, and send sign and exponent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressors.compressor import saturate
from compressors.quantizer import Quantizer

# dtype: (integer type of the same size, mantissa bits, exponent bits)
_FORMAT: dict[torch.dtype, tuple[torch.dtype, int, int]] = {
    torch.float64: (torch.int64, 52, 11),
    torch.float32: (torch.int32, 23, 8),
    torch.float16: (torch.int16, 10, 5),
    torch.bfloat16: (torch.int16, 7, 8),
}


@dataclass(frozen=True)
class Natural(Quantizer):
    """|x_j| = 2^e m, m in [1, 2), becomes 2^{e+1} with probability m - 1, else 2^e; omega = 1/8.

    9 bits a coordinate (float32, bfloat16), 6 (float16), 12 (float64). Random bits added to the mantissa
    carry into the exponent with probability exactly m - 1, so powers of two and zero never change and the bias
    is exactly 0. Subnormals become 0. What would round up beyond the largest power of two becomes the largest
    finite number. (Horváth et al. 2019, 1905.10988; omega derived: attained at m = 4/3.)
    """

    def width(self, dtype: torch.dtype) -> int:
        """Sign and exponent."""
        return 1 + _FORMAT[dtype][2]

    def noise_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """As wide as the float."""
        return _FORMAT[dtype][0]

    def to_codes(self, x: Tensor, norms: Tensor, noise: Tensor) -> Tensor:
        """Sign and exponent of x plus random mantissa bits."""
        integer, mantissa, exponent = _FORMAT[x.dtype]
        bits = x.view(integer)
        noise &= (1 << mantissa) - 1
        # 0 for a subnormal, else 1: without noise it stays below; a comparison would cost eight times as much
        noise *= (bits & (((1 << exponent) - 1) << mantissa)).clamp_(max=1)
        noise += bits
        noise >>= mantissa
        noise &= (1 << (exponent + 1)) - 1
        return noise

    def to_values(self, codes: Tensor, norms: Tensor, dtype: torch.dtype) -> Tensor:
        """A float with that sign and exponent and no mantissa."""
        integer, mantissa, _ = _FORMAT[dtype]
        return saturate((codes.to(integer) << mantissa).view(dtype))

    def omega(self, d: int) -> float:
        """1/8."""
        return 0.125
