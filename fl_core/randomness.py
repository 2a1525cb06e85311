"""Every random number of a run is keyed by what it is for, never by who draws it.

A key is (seed, round, client, purpose): the same key gives the same numbers on any thread, worker or attempt. Numbers
are drawn from CPU generators, so that a master without a GPU can re-create what a worker with one has drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Key = int | str


def seed_of(seed: int, *key: Key) -> int:
    """64 bits that depend on the whole key and on nothing else (BLAKE2b of its canonical text)."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (seed, *key))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def generator(seed: int, *key: Key) -> torch.Generator:
    """A fresh CPU generator for this key."""
    return torch.Generator().manual_seed(seed_of(seed, *key))


def numpy_generator(seed: int, *key: Key) -> np.random.Generator:
    """A fresh NumPy generator for this key."""
    return np.random.Generator(np.random.PCG64(seed_of(seed, *key)))


@contextmanager
def seeded_globally(seed: int, *key: Key) -> Iterator[None]:
    """Run code that draws from torch's global generator (a model's initialisation) as a function of the key alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, *key))
        yield


_TAKES_GENERATOR = frozenset(
    {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson"}
    | {"bernoulli_", "normal_", "uniform_", "exponential_", "random_", "geometric_", "cauchy_", "log_normal_"}
)
_DROPOUTS = frozenset({"dropout", "dropout1d", "dropout2d", "dropout3d", "dropout_"})


class ClientRandomness(TorchFunctionMode):
    """Inside it, dropout and torch's random functions draw from the client's own generator.

    torch keeps one global generator a device; pool threads that shared it would get each other's numbers. This mode
    is local to its thread. What it does not know (fused attention with dropout, say) still draws from the global one:
    `fl_core.execution.cohort` finds that out by watching the global state during a probe.

    Args:
        source: the client's generator, on the CPU; a CUDA tensor is filled from it on the CPU and copied.
    """

    def __init__(self, source: torch.Generator) -> None:
        super().__init__()
        self.source = source

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in _DROPOUTS:
            return self._dropout(name, *args, **kwargs)
        if name in ("rand_like", "randn_like"):
            draw = torch.rand if name == "rand_like" else torch.randn
            like = args[0]
            return draw(like.shape, generator=self.source, dtype=kwargs.get("dtype") or like.dtype).to(like.device)
        if name in _TAKES_GENERATOR and kwargs.get("generator") is None:
            return self._drawn_on_cpu(func, name, args, kwargs)
        return func(*args, **kwargs)

    def _drawn_on_cpu(self, func: Callable[..., Any], name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        device = kwargs.pop("device", None)
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if name.endswith("_") and first is not None:
            drawn = func(torch.empty_like(first, device="cpu"), *args[1:], generator=self.source, **kwargs)
            return first.copy_(drawn)
        if first is not None:
            device = device or first.device
            args = (first.cpu(), *args[1:])
        drawn = func(*args, generator=self.source, **kwargs)
        return drawn.to(device) if device is not None else drawn

    def _dropout(
        self, name: str, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if not training or p == 0.0:
            return input
        channels = name in ("dropout1d", "dropout2d", "dropout3d")
        shape = (*input.shape[:2], *([1] * (input.dim() - 2))) if channels else tuple(input.shape)
        mask = torch.empty(shape, dtype=input.dtype).bernoulli_(1.0 - p, generator=self.source)
        mask = mask.div_(1.0 - p).to(input.device) if p < 1.0 else torch.zeros_like(mask, device=input.device)
        return input.mul_(mask) if inplace else input * mask


assert F.dropout.__name__ in _DROPOUTS, "torch renamed dropout: ClientRandomness must follow"
