"""Rand-K: a uniformly random K-subset of the coordinates, scaled up by d/K."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from compressors.count import check_count, resolve_count
from compressors.patterns import Indices, uniform_subset
from compressors.sparsifier import DrawnSparsifier


@dataclass(frozen=True)
class RandK(DrawnSparsifier):
    """C(x) = (d/K) x on a uniform K-subset; omega = d/K - 1 with equality for every x; W K bits.

    Both sides draw the subset from the shared generator, so indices cost nothing. K >= d is the identity.
    k: an integer >= 1, or a percentage of d like "10%".
    """

    k: int | str

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"k": 2}, {"k": "30%"}, {"k": 10**9})

    def __post_init__(self) -> None:
        check_count("randk", self.k)

    def pattern(self, d: int, generator: torch.Generator) -> Indices | None:
        """A uniform K-subset."""
        k = resolve_count("randk", self.k, d)
        return None if k == d else uniform_subset(generator, d, k)

    def factor(self, d: int) -> float:
        """d / K."""
        return d / resolve_count("randk", self.k, d)

    def left(self, n: float, d: int) -> tuple[float, float]:
        """(1, n K / d)."""
        return 1.0, n * resolve_count("randk", self.k, d) / d

    def stackable(self, nested: bool) -> bool:
        """On a support already thinned out, each row keeps its own number."""
        return not nested

    def omega(self, d: int) -> float:
        """d / K - 1."""
        return d / resolve_count("randk", self.k, d) - 1.0
