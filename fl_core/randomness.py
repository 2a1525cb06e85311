"""Every random number of a run is keyed by what it is for, never by who draws it.

A key is (seed, round, client, purpose): the same key gives the same numbers on any thread, worker or attempt. Numbers
are drawn from CPU generators, so that a master without a GPU can re-create what a worker with one has drawn.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from compressors.compressor import placed

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


_global_generators = threading.RLock()


@contextmanager
def seeded_globally(seed: int, *key: Key) -> Iterator[None]:
    """Run code that draws from global generators (a model's initialisation, a user's data) as a function of the key.

    Those of torch (on the CPU), NumPy and Python; all are put back afterwards. One thread at a time.
    """
    bits = seed_of(seed, *key)
    with _global_generators, torch.random.fork_rng(devices=[]):
        kept = np.random.get_state(), random.getstate()
        torch.manual_seed(bits)
        np.random.seed([bits & 0xFFFFFFFF, bits >> 32])
        random.seed(bits)
        try:
            yield
        finally:
            np.random.set_state(kept[0])
            random.setstate(kept[1])


def global_state(device: torch.device) -> Tensor:
    """The state of the generators that all threads share: it differs from before if anyone has drawn from them."""
    if device.type == "cuda":
        return torch.cat([torch.get_rng_state(), torch.cuda.get_rng_state(device)])
    return torch.get_rng_state()


def foreign_state() -> tuple[object, ...]:
    """The states of NumPy's and Python's global generators, which nobody keys. (50 µs: not to be asked often.)"""
    state: Any = np.random.get_state()
    return state[1].tobytes(), *state[2:], random.getstate()


_TAKES_GENERATOR = frozenset(
    {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson"}
    | {"bernoulli_", "normal_", "uniform_", "exponential_", "random_", "geometric_", "cauchy_", "log_normal_"}
)
_LIKE: dict[str, Callable[..., Tensor]] = {
    "rand_like": torch.rand,
    "randn_like": torch.randn,
    "randint_like": torch.randint,
}
_DROPOUTS = frozenset({"dropout", "dropout1d", "dropout2d", "dropout3d", "dropout_"})
_RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})
_UNBATCHED = frozenset({("dropout1d", 2), ("dropout3d", 4)})
"""Of which channel-wise dropouts and dimensions torch takes the first dimension for channels, not for samples."""


class ClientRandomness(TorchFunctionMode):
    """Inside it, dropout and torch's random functions draw from the client's own generator.

    torch keeps one global generator a device; pool threads that shared it would get each other's numbers. This mode
    is local to its thread. What it does not know (alpha dropout, dropout inside an RNN or inside attention) still draws
    from the global one: `fl_core.execution.cohort` finds that out by watching the global state, and `UnkeyedDraws` says
    where.

    Args:
        source: the client's generator, on the CPU; a CUDA tensor is filled from it on the CPU and copied.

    Attributes:
        used: whether anything was drawn.
    """

    def __init__(self, source: torch.Generator) -> None:
        super().__init__()
        self.source = source
        self.used = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in _DROPOUTS:
            return self._dropout(name, *args, **kwargs)
        given = kwargs.get("generator")
        if given is not None and (name not in _TAKES_GENERATOR or given.device.type != "cpu"):
            return func(*args, **kwargs)
        if name in _LIKE:
            return self._drawn_like(name, *args, **kwargs)
        if name in _TAKES_GENERATOR:
            return self._drawn(func, args, kwargs)
        if name in _RECURRENT:
            _refuse_dropout_on_device(name, args)
        return func(*args, **kwargs)

    def _drawn(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """With the client's generator, or one on the CPU that was given: no device takes that, so it draws here."""
        is_hers = kwargs.get("generator") is not None
        self.used |= not is_hers
        kwargs["generator"] = kwargs["generator"] if is_hers else self.source
        device = kwargs.pop("device", None)
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if device is None and given:
            device = given[0].device
        if device is None or torch.device(device).type == "cpu":
            return func(*args, **kwargs)
        self.used = True  # without the mode it would raise
        out, is_leaf = kwargs.pop("out", None), kwargs.pop("requires_grad", False)
        in_place = func.__name__.endswith("_")  # its numbers are overwritten: they need not be fetched
        on_cpu = [torch.empty_like(args[0], device="cpu")] if in_place else []
        on_cpu += [value.cpu() if isinstance(value, Tensor) else value for value in args[in_place:]]
        named = {key: value.cpu() if isinstance(value, Tensor) else value for key, value in kwargs.items()}
        drawn = func(*on_cpu, **named, **({} if out is None else {"out": torch.empty(0, dtype=out.dtype)}))
        if out is not None:
            return out.resize_(drawn.shape).copy_(drawn)
        there = placed(drawn, torch.device(device))
        if in_place:
            return args[0].copy_(there)
        return there.requires_grad_() if is_leaf else there

    def _drawn_like(self, name: str, input: Tensor, *bounds: int, **kwargs: Any) -> Any:
        kwargs.pop("memory_format", None)
        kwargs = {"dtype": input.dtype, "device": input.device} | {k: v for k, v in kwargs.items() if v is not None}
        return self._drawn(_LIKE[name], bounds, {"size": input.shape, **kwargs})

    def _dropout(
        self,
        name: str,
        input: Tensor,
        p: float = 0.5,
        training: bool = True,
        inplace: bool = False,
        *,
        train: bool = True,  # what torch.dropout calls it
    ) -> Tensor:
        if not (training and train) or p == 0.0:
            return input
        self.used = True
        shape = tuple(input.shape)
        if name[-2:] in ("1d", "2d", "3d"):
            kept = 1 if (name, input.dim()) in _UNBATCHED else 2
            shape = (*shape[:kept], *([1] * (input.dim() - kept)))
        mask = torch.empty(shape, dtype=input.dtype).bernoulli_(1.0 - p, generator=self.source)
        mask = placed(mask.div_(1.0 - p), input.device) if p < 1.0 else torch.zeros_like(mask, device=input.device)
        return input.mul_(mask) if inplace or name == "dropout_" else input * mask


assert F.dropout.__name__ in _DROPOUTS, "torch renamed dropout: ClientRandomness must follow"


class UnkeyedDrawError(RuntimeError):
    """An operation took numbers from a generator that all threads share."""


def _refuse_dropout_on_device(name: str, args: Sequence[Any]) -> None:
    """cuDNN keeps a state of its own for dropout inside an RNN, which neither a key nor the global state knows of."""
    if args[0].device.type == "cpu":
        return
    weights = max(at for at, value in enumerate(args) if isinstance(value, list | tuple))
    dropout, training = args[weights + 3 : weights + 5]
    if dropout and training:
        raise UnkeyedDrawError(
            f"{name} with dropout draws from the device's own generator, so its numbers would depend on which thread "
            "runs it; put torch.nn.Dropout between layers of their own"
        )


class UnkeyedDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's base has no types
    """Inside it, an operation that draws from a global generator raises, where it stands in the user's code.

    It sees every operation of this thread, those inside RNNs and attention too; it is slow, and only for finding out.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        keyed = any(isinstance(value, torch.Generator) for value in (*args, *kwargs.values()))
        if keyed or torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        before = global_state(self._device)
        result = func(*args, **kwargs)
        if not torch.equal(before, global_state(self._device)):
            raise UnkeyedDrawError(
                f"{func} draws from torch's global generator, so its numbers would depend on which thread runs it; "
                "draw with client.generator(...), or use torch.nn.Dropout and torch's plain random functions"
            )
        return result
