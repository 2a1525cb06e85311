"""One operator after another: C1(C2(x)), in one message."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from compressors.chain import Link, chain_bits, decode_chain, encode_chain, most_left
from compressors.compressor import (
    Bytes,
    Compressor,
    CompressorOptionError,
    Encoded,
    Layout,
    check_stack,
    saturate,
)
from compressors.identity import Identity
from compressors.noise import children


@dataclass(frozen=True)
class Compose(Compressor):
    """C(x) = of[0](of[1](... x)): the last of the list acts first, as one writes C1 o C2.

    All unbiased: unbiased, omega = prod (1 + omega_i) - 1. An unbiased operator over a biased one is divided by
    1 + omega_1 (both sides know it), which leaves a contraction: delta = delta_2/(1 + omega_1). A biased one over
    an unbiased one has no bound in general; where one follows from the triangle inequality, `delta` gives it.
    A biased one over a biased one is refused: its error may exceed |x|^2.

    Code: sparsifiers and quantizers share one message (see `chain`), whatever their order. Any other operator
    (Rank-K, Switch, a user's own) is applied to the whole vector, and what follows it codes that vector anew.
    of: compressors, or in an experiment file their tables.
    """

    of: Sequence[Compressor]

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"of": [{"name": "natural"}, {"name": "randk", "k": "30%"}]},
        {"of": [{"name": "randk", "k": "50%"}, {"name": "qsgd", "s": 4}, {"name": "lazy", "p": 0.5}]},
        {"of": [{"name": "terngrad"}, {"name": "topk", "k": "20%"}]},
        {"of": [{"name": "natural"}, {"name": "rankk", "k": 1}]},
        {"of": [{"name": "randk", "k": "50%"}, {"name": "randk", "k": "50%"}]},
    )

    def __post_init__(self) -> None:
        parts: list[Compressor] = []
        for part in self.of:
            if not isinstance(part, Compressor):
                raise CompressorOptionError(f"compose: {part!r} in `of` is no compressor")
            parts += part.of if isinstance(part, Compose) else [part]
        if not parts:
            raise CompressorOptionError("compose: `of` must name at least one compressor")
        if sum(not part.unbiased for part in parts) > 1:
            names = " o ".join(type(part).__name__ for part in parts)
            raise CompressorOptionError(
                f"compose: {names} puts one biased operator over another; the error of such a composition may "
                "exceed |x|^2, so no method's theory holds. Keep one of them, or use switch."
            )
        object.__setattr__(self, "of", tuple(parts))

    def encode(self, x: Tensor, generators: Sequence[torch.Generator]) -> Encoded:
        """`x` `[G, d]` as one message a row. Raises NonFiniteError."""
        check_stack(x, generators)
        whole, links = self._stages()
        factors = self._factors(x.shape[1])
        seeds = [children(generator, len(whole) + len(links)) for generator in generators]
        value, encoded = x, None
        for i, part in enumerate(whole):
            encoded = part.encode(value, [row[i] for row in seeds])
            value = encoded.value if factors[i] == 1.0 else saturate(encoded.value * factors[i])
        if encoded is not None and not links:
            return Encoded(value, encoded.payload, encoded.sizes)
        return encode_chain(links, factors[len(whole) :], value, [row[len(whole) :] for row in seeds])

    def decode(
        self,
        payload: Bytes,
        sizes: Sequence[int],
        like: Layout,
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        """`[G, d]`. Raises PayloadError."""
        whole, links = self._stages()
        factors = self._factors(like.d)
        seeds = [children(generator, len(whole) + len(links)) for generator in generators]
        if links or not whole:
            rest = [row[len(whole) :] for row in seeds]
            return decode_chain(links, factors[len(whole) :], (payload, sizes), like, rest)
        last = len(whole) - 1
        value = whole[last].decode(payload, sizes, like, [row[last] for row in seeds])
        return value if factors[last] == 1.0 else saturate(value * factors[last])

    def bits(self, d: int, dtype: torch.dtype = torch.float32) -> float:
        """Expected bits of the one message."""
        whole, links = self._stages()
        return chain_bits(links, d, dtype) if links or not whole else whole[-1].bits(d, dtype)

    def omega(self, d: int) -> float | None:
        """prod (1 + omega_i) - 1; None if one is biased."""
        product = 1.0
        for part, omega in zip(self._acting(), self._omegas(d), strict=True):
            if omega is None or not part.unbiased:
                return None
            product *= 1.0 + omega
        return product - 1.0

    def delta(self, d: int) -> float | None:
        """As the class says; None where nothing is known."""
        if self.unbiased:
            return super().delta(d)
        growth, delta = 1.0, None
        for part, omega in zip(self._acting(), self._omegas(d), strict=True):
            if part.unbiased:
                growth *= 1.0 + (omega or 0.0)
                continue
            own = part.delta(d)
            if own is None:
                return None
            error = math.sqrt(growth * (1.0 - own)) + math.sqrt(growth - 1.0)
            delta, growth = 1.0 - error**2, 1.0
        return delta / growth if delta is not None and delta > 0 else None

    @property
    def unbiased(self) -> bool:
        """Whether every part is."""
        return all(part.unbiased for part in self.of)

    def _acting(self) -> list[Compressor]:
        """The parts in the order they act, identities left out."""
        return [part for part in reversed(self.of) if not isinstance(part, Identity)]

    def _stages(self) -> tuple[list[Compressor], list[Link]]:
        """Parts up to the last that needs the whole vector, and the links that share one message after it."""
        acting = self._acting()
        links: list[Link] = []
        while acting and isinstance(acting[-1], Link):
            links.insert(0, acting.pop())  # type: ignore[arg-type]
        return acting, links

    def _omegas(self, d: int) -> list[float | None]:
        """omega of every acting part on what it is given."""
        whole, links = self._stages()
        inside = [link.omega_of(most_left(links[:i], d), d) for i, link in enumerate(links)]
        return [part.omega(d) for part in whole] + inside

    def _factors(self, d: int) -> list[float]:
        """1/(1 + omega) for every unbiased part over a biased one, else 1."""
        factors, biased = [], False
        for part, omega in zip(self._acting(), self._omegas(d), strict=True):
            factors.append(1.0 / (1.0 + (omega or 0.0)) if biased and part.unbiased else 1.0)
            biased = biased or not part.unbiased
        return factors
