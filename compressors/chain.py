"""Operators applied one after another and sent as one message: the code of the outermost on what is left.

A sparsifier leaves fewer coordinates in play, a quantizer turns those in play into symbols of a small
alphabet. The message of a chain holds the supports that the receiver cannot draw for itself, then the symbols
of the outermost quantizer (or plain floats) for the coordinates that are left. Factors known to both sides do
not travel. So natural o Rand-K takes 9 K bits, and so does Rand-K o natural. One operator is a chain of one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from compressors.compressor import (
    Bytes,
    Compressor,
    Encoded,
    Layout,
    PayloadError,
    check_stack,
    copy_of,
    empty,
    from_bytes,
    layout_of,
    saturate,
    split,
    to_bytes,
    value_bits,
    zeros,
)

Generators = Sequence[torch.Generator]


class Coder(Protocol):
    """How a quantizer's symbols become bytes."""

    def code_bytes(self, count: int, dtype: torch.dtype) -> int:
        """Bytes of `count` symbols, header included."""

    def read(self, raw: Bytes, count: int, like: Layout) -> Tensor:
        """The values `[G, count]` of the symbols in `raw`."""


class Code(Protocol):
    """Symbols of coordinates in play, ready to be packed."""

    def keep(self, positions: Tensor) -> Code:
        """The symbols at `positions` `[G, k]`."""

    def pack(self) -> Bytes:
        """uint8 `[G, bytes]`."""


@dataclass
class Draft:
    """A message being written, innermost operator first; n of d coordinates are in play in each row."""

    d: int
    values: Tensor  # [G, n] what the receiver will have
    sent: Tensor | Code  # what stands for them in the payload, before `values` was multiplied
    support: Tensor | None = None  # int64 [G, n] ascending; None: all d
    side: list[Bytes] = field(default_factory=list)

    def keep(self, positions: Tensor | None) -> None:
        """Leave only the coordinates at `positions` `[G, k]` of those in play; None leaves all."""
        if positions is None:
            return
        kept = self.values.gather(1, positions)
        if isinstance(self.sent, Tensor):
            self.sent = kept if self.sent is self.values else self.sent.gather(1, positions)
        else:
            self.sent = self.sent.keep(positions)
        self.values = kept
        self.support = positions if self.support is None else self.support.gather(1, positions)

    def multiply(self, factor: float) -> None:
        """Multiply what the receiver will have; it knows the factor, so nothing more is sent."""
        if factor != 1.0:
            if self.values is self.sent:
                self.values = copy_of(self.values)
            self.values = saturate(self.values.mul_(factor))

    def finish(self) -> Encoded:
        """The bytes, and the values in their places."""
        rows = self.values.shape[0]
        body = to_bytes(self.sent) if isinstance(self.sent, Tensor) else self.sent.pack()
        parts = [*self.side, body]
        payload = np.concatenate(parts, axis=1) if self.side else body
        value = copy_of(self.values) if self.values is self.sent and self.support is None else self.values
        return Encoded(_scatter(value, self.support, self.d), payload.reshape(-1), (payload.shape[1],) * rows)


@dataclass
class Reading:
    """The same message being read: the same steps in the same order, but values only at the end."""

    like: Layout
    raw: Bytes  # [G, bytes]
    n: int  # coordinates in play
    support: Tensor | None = None
    coder: Coder | None = None
    factors: list[float] = field(default_factory=list)
    at: int = 0

    def take(self, size: int) -> Bytes:
        """The next `size` bytes of every row. Raises PayloadError if they are not there."""
        if self.at + size > self.raw.shape[1]:
            raise PayloadError(f"a payload of {self.raw.shape[1]} bytes ends before byte {self.at + size}")
        self.at += size
        return self.raw[:, self.at - size : self.at]

    def keep(self, positions: Tensor | None) -> None:
        """As `Draft.keep`."""
        if positions is not None:
            self.support = positions if self.support is None else self.support.gather(1, positions)
            self.n = positions.shape[1]

    def finish(self) -> Tensor:
        """`[G, d]`. Raises PayloadError if bytes are missing or left over."""
        dtype = self.like.dtype
        if self.coder is None:
            values = from_bytes(self.take(self.n * value_bits(dtype) // 8), self.like)
        elif self.n:
            values = self.coder.read(self.take(self.coder.code_bytes(self.n, dtype)), self.n, self.like)
        else:
            values = empty((self.raw.shape[0], 0), self.like)
        if self.at != self.raw.shape[1]:
            raise PayloadError(f"a payload of {self.raw.shape[1]} bytes where {self.at} were due")
        for factor in self.factors:
            values = saturate(values.mul_(factor))
        return _scatter(values, self.support, self.like.d)


class Link(Compressor):
    """An operator that can be followed by another in one message."""

    @abstractmethod
    def apply(self, draft: Draft, generators: Generators) -> None:
        """Do it to a draft (sender)."""

    @abstractmethod
    def replay(self, reading: Reading, generators: Generators) -> None:
        """Follow what the sender did, without the values (receiver)."""

    @abstractmethod
    def left(self, n: float, d: int) -> tuple[float, float]:
        """(probability that anything is left, expected coordinates left then) of n in play out of d."""

    thins: ClassVar[bool] = True
    """Whether it may leave fewer coordinates in play."""

    def stackable(self, nested: bool) -> bool:
        """Whether all rows keep equally many coordinates; `nested`: another sparsifier was there before."""
        return True

    def omega_of(self, n: int, d: int) -> float | None:
        """omega on vectors of R^d that live on n coordinates known to both sides."""
        return self.omega(n)

    def side_bits(self, n: float, d: int) -> float:
        """Bits that tell the receiver which of n coordinates in play (of d) were kept."""
        return 0.0

    def body_bits(self, n: float, dtype: torch.dtype) -> float | None:
        """Bits of n coordinates in its alphabet, header included; None if it has none."""
        return None

    def encode(self, x: Tensor, generators: Generators) -> Encoded:
        """`x` `[G, d]` as a chain of this one operator. Raises NonFiniteError."""
        check_stack(x, generators)
        return encode_chain([self], [1.0], x, [[generator] for generator in generators])

    def decode(self, payload: Bytes, sizes: Sequence[int], like: Layout, generators: Generators) -> Tensor:
        """`[G, d]`. Raises PayloadError."""
        return decode_chain([self], [1.0], (payload, sizes), like, [[generator] for generator in generators])

    def bits(self, d: int, dtype: torch.dtype = torch.float32) -> float:
        """Expected bits of a chain of this one operator."""
        return chain_bits([self], d, dtype)


def encode_chain(
    links: Sequence[Link], factors: Sequence[float], x: Tensor, generators: Sequence[Generators]
) -> Encoded:
    """Apply `links`, innermost first, to `x` `[G, d]`; `factors[i]` multiplies what link i leaves.

    `generators[g][i]` is row g's generator for link i.
    """
    rows, d = x.shape
    if rows > 1 and not _stackable(links):
        alone = [encode_chain(links, factors, x[g : g + 1], generators[g : g + 1]) for g in range(rows)]
        value = empty((rows, d), layout_of(x))
        for g, one in enumerate(alone):
            value[g] = one.value[0]
        payload = np.concatenate([one.payload for one in alone])
        return Encoded(value, payload, tuple(one.sizes[0] for one in alone))
    x = x.detach().contiguous()
    draft = Draft(d, x, x)
    for i, link in enumerate(links):
        if draft.values.shape[1] == 0:
            break
        link.apply(draft, [row[i] for row in generators])
        draft.multiply(factors[i])
    return draft.finish()


def decode_chain(
    links: Sequence[Link],
    factors: Sequence[float],
    message: tuple[Bytes, Sequence[int]],
    like: Layout,
    generators: Sequence[Generators],
) -> Tensor:
    """The values `[G, d]` of `message` = (payload, sizes). Raises PayloadError."""
    payload, sizes = message
    pieces = split(payload, sizes)
    if len(pieces) > 1 and not _stackable(links):
        value = empty((len(pieces), like.d), like)
        for g, piece in enumerate(pieces):
            alone = (piece, (piece.size,))
            value[g] = decode_chain(links, factors, alone, like, generators[g : g + 1])[0]
        return value
    if len(set(sizes)) > 1:
        raise PayloadError(f"payloads of one size were due, not of {min(sizes)} to {max(sizes)} bytes")
    reading = Reading(like, payload.reshape(len(sizes), -1), like.d)
    for i, link in enumerate(links):
        if reading.n == 0:
            break
        link.replay(reading, [row[i] for row in generators])
        if factors[i] != 1.0:
            reading.factors.append(factors[i])
    return reading.finish()


def chain_bits(links: Sequence[Link], d: int, dtype: torch.dtype) -> float:
    """Expected bits of one message of the chain."""
    chance, n, side = 1.0, float(d), 0.0
    coder: Link | None = None
    for link in links:
        side += chance * link.side_bits(n, d)
        still, n = link.left(n, d)
        chance *= still
        coder = link if link.body_bits(n, dtype) is not None else coder
    body = coder.body_bits(n, dtype) if coder is not None else None
    return side + chance * (value_bits(dtype) * n if body is None else body)


def most_left(links: Sequence[Link], d: int) -> int:
    """The most coordinates that can be in play after the links."""
    n = float(d)
    for link in links:
        n = min(n, link.left(float(d), d)[1])
    return max(1, round(n))


def _stackable(links: Sequence[Link]) -> bool:
    nested = False
    for link in links:
        if not link.stackable(nested):
            return False
        nested = nested or link.thins
    return True


def _scatter(values: Tensor, support: Tensor | None, d: int) -> Tensor:
    """Values `[G, n]` in their places in zeros `[G, d]`."""
    if support is None:
        return values
    return zeros((values.shape[0], d), layout_of(values)).scatter_(1, support, values)
