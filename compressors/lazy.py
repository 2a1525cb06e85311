"""Lazy (Bernoulli): the whole vector now and then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from compressors.compressor import CompressorOptionError
from compressors.noise import uniform
from compressors.patterns import Indices
from compressors.sparsifier import DrawnSparsifier


@dataclass(frozen=True)
class Lazy(DrawnSparsifier):
    """C(x) = x/p with probability p, else 0; omega = 1/p - 1 with equality for every x; mean p W d bits.

    Both sides toss the coin from the shared generator, so it costs nothing and an unsent vector has 0 bytes.
    p: in (0, 1]; 1 is the identity.
    """

    p: float

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"p": 0.25}, {"p": 1})

    def __post_init__(self) -> None:
        if isinstance(self.p, bool) or not isinstance(self.p, int | float) or not 0 < self.p <= 1:
            raise CompressorOptionError(f"lazy: p = {self.p!r} must be a probability in (0, 1]")

    def pattern(self, d: int, generator: torch.Generator) -> Indices | None:
        """All coordinates with probability p, else none."""
        if self.p == 1 or uniform(generator) < self.p:
            return None
        return np.empty(0, np.int64)

    def factor(self, d: int) -> float:
        """1 / p."""
        return 1.0 / self.p

    def left(self, n: float, d: int) -> tuple[float, float]:
        """(p, n)."""
        return float(self.p), n

    def stackable(self, nested: bool) -> bool:
        """Each row has a coin of its own."""
        return False

    def omega(self, d: int) -> float:
        """1 / p - 1."""
        return 1.0 / self.p - 1.0
