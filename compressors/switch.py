"""One of several operators, chosen at random for every message."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from compressors.compressor import (
    Bytes,
    Compressor,
    CompressorOptionError,
    Encoded,
    Layout,
    check_stack,
    empty,
    layout_of,
    split,
)
from compressors.noise import uniform


@dataclass(frozen=True)
class Switch(Compressor):
    """C(x) = C_j(x) with probability q_j = weights[j] / sum(weights); both sides draw j, so it costs no bits.

    All unbiased: unbiased, omega = sum q_j omega_j. All contractive: delta = sum q_j delta_j. Mixed: neither
    (the identity, and any operator where it loses nothing, counts as both). Mean bits: sum q_j B_j.
    of: compressors, or in an experiment file their tables. weights: positive; equal if left out.
    """

    of: Sequence[Compressor]
    weights: Sequence[float] | None = None

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"of": [{"name": "natural"}, {"name": "randk", "k": "30%"}], "weights": [1, 3]},
        {"of": [{"name": "topk", "k": "30%"}, {"name": "identity"}, {"name": "rankk", "k": 1}]},
        {"of": [{"name": "topk", "k": 1}, {"name": "terngrad"}], "weights": [0.5, 0.5]},
    )

    def __post_init__(self) -> None:
        parts = tuple(self.of)
        if not parts or not all(isinstance(part, Compressor) for part in parts):
            raise CompressorOptionError("switch: `of` must name at least one compressor, and nothing else")
        weights = (1.0,) * len(parts) if self.weights is None else tuple(self.weights)
        if len(weights) != len(parts):
            raise CompressorOptionError(f"switch: {len(parts)} compressors need as many weights, not {len(weights)}")
        for weight in weights:
            number = isinstance(weight, int | float) and not isinstance(weight, bool)
            if not number or not 0 < weight < math.inf:
                raise CompressorOptionError(f"switch: weight {weight!r} must be a positive number")
        object.__setattr__(self, "of", parts)
        object.__setattr__(self, "weights", weights)

    def encode(self, x: Tensor, generators: Sequence[torch.Generator]) -> Encoded:
        """`x` `[G, d]`, the rows of one choice together. Raises NonFiniteError."""
        check_stack(x, generators)
        value = empty((x.shape[0], x.shape[1]), layout_of(x))
        pieces: list[Bytes] = [np.empty(0, np.uint8)] * len(generators)
        for part, rows in self._choices(generators):
            encoded = part.encode(x[rows], [generators[row] for row in rows])
            value[rows] = encoded.value
            for row, piece in zip(rows, encoded.split(), strict=True):
                pieces[row] = piece
        return Encoded(value, np.concatenate(pieces), tuple(piece.size for piece in pieces))

    def decode(
        self,
        payload: Bytes,
        sizes: Sequence[int],
        like: Layout,
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        """`[G, d]`. Raises PayloadError."""
        pieces = split(payload, sizes)
        value = empty((len(pieces), like.d), like)
        for part, rows in self._choices(generators):
            joined = np.concatenate([pieces[row] for row in rows])
            own = [generators[row] for row in rows]
            value[rows] = part.decode(joined, [pieces[row].size for row in rows], like, own)
        return value

    def bits(self, d: int, dtype: torch.dtype = torch.float32) -> float:
        """sum q_j B_j."""
        return math.fsum(q * part.bits(d, dtype) for q, part in self._chances())

    def omega(self, d: int) -> float | None:
        """sum q_j omega_j; None if one is biased at this d."""
        return _mean([(q, part.omega(d)) for q, part in self._chances()])

    def delta(self, d: int) -> float | None:
        """sum q_j delta_j; None if one is no contraction as it stands."""
        return _mean([(q, part.delta(d)) for q, part in self._chances()])

    @property
    def unbiased(self) -> bool:
        """Whether every part is."""
        return all(part.unbiased for part in self.of)

    def _chances(self) -> list[tuple[float, Compressor]]:
        assert self.weights is not None
        total = math.fsum(self.weights)
        return [(weight / total, part) for weight, part in zip(self.weights, self.of, strict=True)]

    def _choices(self, generators: Sequence[torch.Generator]) -> list[tuple[Compressor, list[int]]]:
        """Which rows each part gets; the choice is the first draw of a row's generator."""
        ends = list(itertools.accumulate(q for q, _ in self._chances()))[:-1]
        chosen = [sum(end <= draw for end in ends) for draw in map(uniform, generators)]
        rows = [[row for row, j in enumerate(chosen) if j == part] for part in range(len(self.of))]
        return [(part, own) for part, own in zip(self.of, rows, strict=True) if own]


def _mean(terms: list[tuple[float, float | None]]) -> float | None:
    if any(term is None for _, term in terms):
        return None
    return math.fsum(q * term for q, term in terms if term is not None)
