"""A contraction from any compressor, for the methods that need one (EF21, EF14)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compressors.compressor import Bytes, Compressor, Encoded, Layout
from compressors.identity import Identity


def contraction(compressor: Compressor) -> Compressor:
    """An unbiased C as C/(1 + omega), which has delta = 1/(1 + omega); a biased one as it is.

    The bytes are those of C: both sides know the factor. What comes back may still have `delta(d)` None
    (a switch between biased and unbiased operators): the method must refuse it.
    """
    if not compressor.unbiased or isinstance(compressor, Identity | _Scaled):
        return compressor
    return _Scaled(compressor)


@dataclass(frozen=True)
class _Scaled(Compressor):
    """C/(1 + omega) of an unbiased C. (Private, so no plug-in: an experiment file never names it.)"""

    of: Compressor

    def encode(self, x: Tensor, generators: Sequence[torch.Generator]) -> Encoded:
        """The bytes of C(x), the value scaled."""
        encoded = self.of.encode(x, generators)
        return Encoded(encoded.value.mul_(self._factor(x.shape[1])), encoded.payload, encoded.sizes)

    def decode(
        self,
        payload: Bytes,
        sizes: Sequence[int],
        like: Layout,
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        """C's value, scaled."""
        return self.of.decode(payload, sizes, like, generators).mul_(self._factor(like.d))

    def bits(self, d: int, dtype: torch.dtype = torch.float32) -> float:
        """Those of C."""
        return self.of.bits(d, dtype)

    def omega(self, d: int) -> float | None:
        """0 where C is lossless, else None."""
        return 0.0 if self.of.omega(d) == 0.0 else None

    def delta(self, d: int) -> float:
        """1/(1 + omega)."""
        return self._factor(d)

    @property
    def unbiased(self) -> bool:
        """No."""
        return False

    def _factor(self, d: int) -> float:
        return 1.0 / (1.0 + (self.of.omega(d) or 0.0))
