"""TernGrad: sign or nothing, times the largest magnitude."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from compressors.compressor import Bytes
from compressors.dithering import LinearDithering, linear_omega
from compressors.packing import Codes, pack_trits, trit_bytes, unpack_trits


@dataclass(frozen=True)
class Terngrad(LinearDithering):
    """Standard dithering with s = 1 and p = inf: three values, five to a byte, W + 1.6 d bits.

    omega = |x|_inf |x|_1/|x|_2^2 - 1 <= (sqrt d - 1)/2, attained at (1, a, ..., a), a = 1/(1 + sqrt d).
    (Wen et al. 2017, 1705.07878; omega derived.)
    """

    @property
    def levels(self) -> int:
        """1."""
        return 1

    @property
    def order(self) -> float:
        """inf."""
        return math.inf

    def pack_codes(self, codes: Codes, dtype: torch.dtype) -> Bytes:
        """0, 1 and 3 (minus one) as ternary digits 0, 1 and 2; 2 (minus zero) as 0."""
        levels: Bytes = codes.view(np.uint8)
        return pack_trits((levels & np.uint8(1)) << (levels >> np.uint8(1)))

    def unpack_codes(self, raw: Bytes, count: int, dtype: torch.dtype) -> Codes:
        """Digits to codes."""
        trits = unpack_trits(raw, count)
        return trits + (trits >> np.uint8(1))

    def packed_code_bytes(self, count: int, dtype: torch.dtype) -> int:
        """ceil(n / 5)."""
        return trit_bytes(count)

    def code_bits(self, n: float, dtype: torch.dtype) -> float:
        """1.6 n."""
        return 1.6 * n

    def omega(self, d: int) -> float:
        """(sqrt d - 1)/2."""
        return linear_omega(d, 1, math.inf)
