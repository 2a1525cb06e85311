"""No compression: every coordinate travels as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
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
    value_bits,
)


@dataclass(frozen=True)
class Identity(Compressor):
    """C(x) = x: omega = 0, delta = 1, W d bits."""

    def encode(self, x: Tensor, generators: Sequence[torch.Generator]) -> Encoded:
        """`x` `[G, d]` as W d bits a row."""
        check_stack(x, generators)
        # On the CPU the message is the value's own memory: a large model is copied once, not twice.
        if x.device.type == "cpu" and x.dtype != torch.bfloat16:  # which NumPy lacks; its calls cost half of torch's
            numbers = x.detach().numpy().copy()
            value, raw = torch.from_numpy(numbers), numbers.view(np.uint8)
        elif x.device.type == "cpu":
            value = copy_of(x.detach())
            raw = value.view(torch.uint8).numpy()
        else:
            return _Unread(copy_of(x.detach()))
        return Encoded(value, raw.reshape(-1), (raw.shape[1],) * raw.shape[0])

    def decode(
        self,
        payload: Bytes,
        sizes: Sequence[int],
        like: Layout,
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        """`[G, d]`, the very bits that were sent."""
        check_payload(payload, sizes, like.d * value_bits(like.dtype) // 8)
        return from_bytes(payload.reshape(len(sizes), -1), like)

    def bits(self, d: int, dtype: torch.dtype = torch.float32) -> float:
        """W d."""
        return float(value_bits(dtype) * d)

    def omega(self, d: int) -> float:
        """0."""
        return 0.0


class _Unread(Encoded):
    """Vectors on a device, whose bytes leave it only when they are asked for: sums may be all that is needed."""

    def __init__(self, value: Tensor) -> None:
        object.__setattr__(self, "value", value)
        object.__setattr__(self, "sizes", (value.shape[1] * value.element_size(),) * value.shape[0])

    @cached_property
    def payload(self) -> Bytes:
        """The value's own memory."""
        raw: Bytes = self.value.view(torch.uint8).cpu().numpy()
        return raw.reshape(-1)
