"""Operators that round every coordinate to a small alphabet, with one norm a vector or none."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from compressors.chain import Draft, Link, Reading
from compressors.compressor import (
    Bytes,
    Layout,
    PayloadError,
    empty,
    from_bytes,
    layout_of,
    to_bytes,
    value_bits,
)
from compressors.noise import blocks, noise_generator, random_bits
from compressors.norms import carrier, row_norms
from compressors.packing import Codes, pack, packed_bytes, unpack

_SIGNED = {np.dtype(np.uint8): np.uint8, np.dtype(np.uint16): np.int16, np.dtype(np.uint32): np.int32}


@dataclass
class Symbols:
    """What a quantizer sends: codes `[G, n]`, and norms `[G, 1]` where it has them."""

    maker: Quantizer
    dtype: torch.dtype
    codes: Tensor
    norms: Tensor | None

    def keep(self, positions: Tensor) -> Symbols:
        """The symbols at `positions` `[G, k]`, under the same norms."""
        return Symbols(self.maker, self.dtype, self.codes.gather(1, positions), self.norms)

    def pack(self) -> Bytes:
        """uint8 `[G, bytes]`: the norm, then the codes."""
        body = self.maker.pack_codes(self.codes.cpu().numpy(), self.dtype)
        return body if self.norms is None else np.concatenate([to_bytes(self.norms), body], axis=1)


class Quantizer(Link):
    """Rounds coordinate by coordinate. A subclass says how one block becomes codes and codes become values.

    A code is the magnitude's level in the low bits and the sign in the highest of `width` bits.
    """

    thins: ClassVar[bool] = False

    @property
    def order(self) -> float | None:
        """The p of the norm it divides by and sends; None: it needs no norm."""
        return None

    @abstractmethod
    def width(self, dtype: torch.dtype) -> int:
        """Bits of one symbol."""

    @abstractmethod
    def noise_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The integer type whose random bits round one coordinate."""

    @abstractmethod
    def to_codes(self, x: Tensor, norms: Tensor, noise: Tensor) -> Tensor:
        """Integer codes of a block `[r, c]`; norms `[r, 1]` are not 0; `noise` `[r, c]` may be overwritten."""

    @abstractmethod
    def to_values(self, codes: Tensor, norms: Tensor, dtype: torch.dtype) -> Tensor:
        """What a block of codes stands for, finite, of `dtype`."""

    def pack_codes(self, codes: Codes, dtype: torch.dtype) -> Bytes:
        """`[G, n]` codes to bytes."""
        unsigned = codes.view(np.dtype(f"u{codes.dtype.itemsize}"))
        return pack(unsigned, self.width(dtype))

    def unpack_codes(self, raw: Bytes, count: int, dtype: torch.dtype) -> Codes:
        """Bytes to `[G, n]` codes."""
        codes = unpack(raw, count, self.width(dtype))
        return codes.view(_SIGNED[codes.dtype])

    def packed_code_bytes(self, count: int, dtype: torch.dtype) -> int:
        """Bytes of `count` codes."""
        return packed_bytes(count, self.width(dtype))

    def code_bits(self, n: float, dtype: torch.dtype) -> float:
        """Bits of n codes."""
        return n * self.width(dtype)

    def apply(self, draft: Draft, generators: Sequence[torch.Generator]) -> None:
        """Round the values in play."""
        draft.sent, draft.values = self.quantize(draft.values, generators)

    def replay(self, reading: Reading, generators: Sequence[torch.Generator]) -> None:
        """Note that symbols are what was sent; factors of earlier links are in them."""
        reading.coder = self
        reading.factors.clear()

    def quantize(self, x: Tensor, generators: Sequence[torch.Generator]) -> tuple[Symbols, Tensor]:
        """The symbols of `x` `[G, n]` and what they decode to."""
        order = self.order
        norms = torch.ones(x.shape[0], device=x.device) if order is None else row_norms(x, order)
        norms = norms[:, None]
        divisors = torch.where(norms == 0, torch.ones_like(norms), norms)
        shape = (x.shape[0], x.shape[1])
        values = empty(shape, layout_of(x))
        codes = empty(shape, Layout(shape[1], self._code_dtype(x.dtype), x.device))
        sources = [noise_generator(generator, x.device) for generator in generators]
        kind = self.noise_dtype(x.dtype)
        for rows, columns in blocks(x.shape[0], x.shape[1], x.device):
            noise = random_bits(sources[rows], columns.stop - columns.start, kind)
            block = self.to_codes(x[rows, columns], divisors[rows], noise)
            codes[rows, columns] = block
            values[rows, columns] = self.to_values(block, norms[rows], x.dtype)
        return Symbols(self, x.dtype, codes, None if order is None else norms), values

    def read(self, raw: Bytes, count: int, like: Layout) -> Tensor:
        """The values `[G, count]` of packed symbols. Raises PayloadError for a norm that is no norm."""
        head = self._header_bits(like.dtype) // 8
        norms = torch.ones((raw.shape[0], 1), device=like.device)
        if head:
            norms = from_bytes(raw[:, :head], Layout(1, carrier(like.dtype), like.device))
            if not bool((torch.isfinite(norms) & (norms >= 0)).all()):
                raise PayloadError("a norm must be finite and not negative; the payload's is not")
        codes = torch.from_numpy(self.unpack_codes(raw[:, head:], count, like.dtype)).to(like.device)
        values = empty((codes.shape[0], count), like)
        for rows, columns in blocks(codes.shape[0], count, like.device):
            values[rows, columns] = self.to_values(codes[rows, columns], norms[rows], like.dtype)
        return values

    def code_bytes(self, count: int, dtype: torch.dtype) -> int:
        """Bytes of a header and `count` codes."""
        return self._header_bits(dtype) // 8 + self.packed_code_bytes(count, dtype)

    def left(self, n: float, d: int) -> tuple[float, float]:
        """(1, n): it drops nothing."""
        return 1.0, n

    def body_bits(self, n: float, dtype: torch.dtype) -> float:
        """A norm and n codes."""
        return self._header_bits(dtype) + self.code_bits(n, dtype)

    def _header_bits(self, dtype: torch.dtype) -> int:
        return 0 if self.order is None else value_bits(carrier(dtype))

    def _code_dtype(self, dtype: torch.dtype) -> torch.dtype:
        width = self.width(dtype)
        return torch.uint8 if width <= 8 else torch.int16 if width <= 16 else torch.int32
