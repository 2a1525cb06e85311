"""Top-K: the K coordinates of largest magnitude."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from compressors.chain import Draft, Link, Reading
from compressors.compressor import Bytes, PayloadError
from compressors.count import check_count, resolve_count
from compressors.packing import code_dtype, pack, packed_bytes, unpack
from compressors.patterns import Indices
from compressors.selection import largest


@dataclass(frozen=True)
class TopK(Link):
    """C(x) = x on the K largest |x_j|, 0 elsewhere; of equals the lowest index. Biased: delta = K/d.

    K (W + ceil log2 d) bits, or K W + d with a bitmap where that is less; K >= d is the identity, W d bits.
    k: an integer >= 1, or a percentage of d like "10%". After another sparsifier it chooses among what that
    one kept. (Stich et al. 2018, 1809.07599; Alistarh et al. 2018, 1809.10505.)
    """

    k: int | str

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"k": 2}, {"k": "30%"}, {"k": 10**9})

    def __post_init__(self) -> None:
        check_count("topk", self.k)

    def apply(self, draft: Draft, generators: Sequence[torch.Generator]) -> None:
        """Keep the K largest of those in play and write which they are."""
        n = draft.values.shape[1]
        k = min(resolve_count("topk", self.k, draft.d), n)
        if k < n:
            positions = largest(draft.values, k)
            draft.side.append(_write_positions(positions.cpu().numpy(), n))
            draft.keep(positions)

    def replay(self, reading: Reading, generators: Sequence[torch.Generator]) -> None:
        """Read which were kept."""
        n = reading.n
        k = min(resolve_count("topk", self.k, reading.like.d), n)
        if k < n:
            raw = reading.take(_position_bytes(n, k))
            reading.keep(torch.from_numpy(_read_positions(raw, n, k)).to(reading.like.device))

    def left(self, n: float, d: int) -> tuple[float, float]:
        """(1, min(n, K))."""
        return 1.0, min(n, float(resolve_count("topk", self.k, d)))

    def side_bits(self, n: float, d: int) -> float:
        """min(K ceil log2 n, n)."""
        count = round(n)
        return float(_position_bits(count, min(resolve_count("topk", self.k, d), count)))

    def delta(self, d: int) -> float:
        """K / d."""
        return resolve_count("topk", self.k, d) / d

    def omega(self, d: int) -> float | None:
        """0 where K >= d, else None: it is biased."""
        return 0.0 if resolve_count("topk", self.k, d) == d else None

    @property
    def unbiased(self) -> bool:
        """No."""
        return False


def _position_bits(n: int, k: int) -> int:
    """Bits to tell k places of n: as numbers or as a bitmap, whichever is less; 0 if all are kept."""
    return 0 if k == n else min(k * (n - 1).bit_length(), n)


def _position_bytes(n: int, k: int) -> int:
    width = (n - 1).bit_length()
    return packed_bytes(k, width) if k * width <= n else -(-n // 8)


def _write_positions(positions: Indices, n: int) -> Bytes:
    """`[G, k]` ascending places below n -> uint8 `[G, bytes]`."""
    rows, k = positions.shape
    width = (n - 1).bit_length()
    if k * width <= n:
        return pack(positions.astype(code_dtype(width)), width)
    kept = np.zeros((rows, n), np.bool_)
    np.put_along_axis(kept, positions, True, axis=1)
    return np.packbits(kept, axis=1, bitorder="little")


def _read_positions(raw: Bytes, n: int, k: int) -> Indices:
    """The inverse. Raises PayloadError for places out of order, beyond n, or not k of them."""
    width = (n - 1).bit_length()
    if k * width <= n:
        positions = unpack(raw, k, width).astype(np.int64)
        if bool((positions[:, 1:] <= positions[:, :-1]).any()) or int(positions[:, -1].max()) >= n:
            raise PayloadError(f"top-k indices must ascend and stay below {n}; these do not")
        return positions
    kept = np.unpackbits(raw, axis=1, count=n, bitorder="little").view(np.bool_)
    if bool((np.count_nonzero(kept, axis=1) != k).any()):
        raise PayloadError(f"a top-k bitmap must mark {k} of {n} places; this one does not")
    return np.flatnonzero(kept).reshape(-1, k) % n
