"""Rank-K: the vector as a matrix, its K leading singular directions."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from compressors.compressor import (
    Bytes,
    Compressor,
    Encoded,
    Layout,
    check_payload,
    check_stack,
    copy_of,
    from_bytes,
    to_bytes,
    value_bits,
)
from compressors.count import check_count, resolve_count


@functools.cache
def shape_of(d: int) -> tuple[int, int]:
    """(A, B) with A B = d, A <= B, as near to a square as divisors allow; a prime d gives (1, d)."""
    a = math.isqrt(d)
    while d % a:
        a -= 1
    return a, d // a


@dataclass(frozen=True)
class RankK(Compressor):
    """C(x) = truncated singular value decomposition of x as A x B. Biased: delta = K/min(A, B).

    W min(d, K (A + B)) bits: the left vectors and the right ones times their singular values. Where the
    factors would be no shorter than x itself (a prime d, K >= A), x travels as it is and nothing is lost.
    k: an integer >= 1, or a percentage of A = min(A, B) like "10%". The shape is the most nearly square A x B
    of the flat vector. Not PowerSGD (1905.13727), which is one power iteration and no projection. Its factors
    are LAPACK's: the one operator whose bytes may depend on the number of intra-op threads.
    """

    k: int | str

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"k": 1}, {"k": "50%"}, {"k": 10**9})

    def __post_init__(self) -> None:
        check_count("rankk", self.k)

    def encode(self, x: Tensor, generators: Sequence[torch.Generator]) -> Encoded:
        """`x` `[G, d]` as two factors a row. Raises NonFiniteError."""
        check_stack(x, generators)
        x = x.detach()
        a, b, k = self._sizes(x.shape[1])
        if k == 0:
            raw = to_bytes(x)
            return Encoded(copy_of(x), raw.reshape(-1), (raw.shape[1],) * raw.shape[0])
        factors = torch.stack([_factors(row.reshape(a, b), k) for row in x])
        raw = to_bytes(factors)
        value = torch.stack([_product(row, a, b, k) for row in factors])
        return Encoded(value, raw.reshape(-1), (raw.shape[1],) * raw.shape[0])

    def decode(
        self,
        payload: Bytes,
        sizes: Sequence[int],
        like: Layout,
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        """`[G, d]`. Raises PayloadError."""
        a, b, k = self._sizes(like.d)
        count = k * (a + b) if k else like.d
        check_payload(payload, sizes, count * value_bits(like.dtype) // 8)
        values = from_bytes(payload.reshape(len(sizes), -1), like)
        return torch.stack([_product(row, a, b, k) for row in values]) if k else values

    def bits(self, d: int, dtype: torch.dtype = torch.float32) -> float:
        """W min(d, K (A + B))."""
        a, b, k = self._sizes(d)
        return float(value_bits(dtype) * (k * (a + b) if k else d))

    def delta(self, d: int) -> float:
        """K / min(A, B), or 1 where x travels as it is."""
        a, _, k = self._sizes(d)
        return k / a if k else 1.0

    def omega(self, d: int) -> float | None:
        """0 where x travels as it is, else None: it is biased."""
        return None if self._sizes(d)[2] else 0.0

    @property
    def unbiased(self) -> bool:
        """No."""
        return False

    def _sizes(self, d: int) -> tuple[int, int, int]:
        """(A, B, K), K = 0 where x travels as it is."""
        a, b = shape_of(d)
        k = resolve_count("rankk", self.k, a)
        return a, b, 0 if k * (a + b) >= d else k


def _factors(matrix: Tensor, k: int) -> Tensor:
    """The left vectors `[A, K]` and then the right ones `[K, B]`, flat `[K (A + B)]`, of the matrix's dtype."""
    wide = matrix.double()
    if matrix.dtype is torch.float64:
        left = torch.linalg.svd(wide, full_matrices=False).U[:, :k]
    else:
        # Ten times faster than the decomposition: what squaring loses in double precision lies below a
        # float32's last bit. The right factor is a projection, so nothing hangs on the eigenvalues.
        left = torch.linalg.eigh(wide @ wide.T).eigenvectors[:, -k:]
    right = left.T @ wide
    largest = torch.finfo(matrix.dtype).max
    flat = torch.cat([left.reshape(-1), right.reshape(-1)])
    return flat.clamp_(-largest, largest).to(matrix.dtype)


def _product(factors: Tensor, a: int, b: int, k: int) -> Tensor:
    """Left times right, `[A B]`: a sum of outer products, rounded alike on every device and thread count."""
    left, right = factors[: a * k].reshape(a, k), factors[a * k :].reshape(k, b)
    if factors.dtype is not torch.float64:
        left, right = left.float(), right.float()
    total = left[:, :1] * right[:1]
    for i in range(1, k):
        total += left[:, i : i + 1] * right[i]
    largest = torch.finfo(factors.dtype).max
    return total.clamp_(-largest, largest).to(factors.dtype).reshape(-1)
