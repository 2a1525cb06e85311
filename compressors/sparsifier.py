"""Operators that keep some coordinates and drop the rest, and the drawn ones, whose choice costs no bits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from compressors.chain import Draft, Link, Reading
from compressors.compressor import placed
from compressors.patterns import Indices


class DrawnSparsifier(Link):
    """C(x) = factor * x on a support that depends on the generator alone, 0 elsewhere."""

    @abstractmethod
    def pattern(self, d: int, generator: torch.Generator) -> Indices | None:
        """The support, ascending; None: all of it."""

    @abstractmethod
    def factor(self, d: int) -> float:
        """What makes it unbiased."""

    def omega_of(self, n: int, d: int) -> float | None:
        """Its pattern is over all d, whatever is in play."""
        return self.omega(d)

    def apply(self, draft: Draft, generators: Sequence[torch.Generator]) -> None:
        """Draw the support and keep it."""
        draft.keep(self._positions(draft.d, draft.support, draft.values.device, generators))
        draft.multiply(self.factor(draft.d))

    def replay(self, reading: Reading, generators: Sequence[torch.Generator]) -> None:
        """Draw the same support."""
        like = reading.like
        reading.keep(self._positions(like.d, reading.support, like.device, generators))
        if (factor := self.factor(like.d)) != 1.0:
            reading.factors.append(factor)

    def _positions(
        self,
        d: int,
        support: Tensor | None,
        device: torch.device,
        generators: Sequence[torch.Generator],
    ) -> Tensor | None:
        """Where among the coordinates in play the drawn ones are: int64 `[G, k]`."""
        drawn = [self.pattern(d, generator) for generator in generators]
        known = [pattern for pattern in drawn if pattern is not None]
        if not known:
            return None
        if support is None:
            return placed(torch.from_numpy(known[0][None] if len(known) == 1 else np.stack(known)), device)
        inside = np.isin(support[0].cpu().numpy(), known[0], assume_unique=True)
        return placed(torch.from_numpy(np.flatnonzero(inside)[None]), device)
