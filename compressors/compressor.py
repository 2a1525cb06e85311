"""What every compressor is: a stack of vectors to bytes and back, with its theory beside it.

A message is its bytes: `encode` gives the payload that travels and `value`, what the receiver will make of
it, bit for bit. Whatever both sides can draw from the shared generator (the *pattern*: Rand-K's indices,
Lazy's coin, Switch's choice) is drawn first and costs no bits; private rounding noise is drawn after it and
never sent.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from protocol.errors import InputError, ProtocolError, RunError

Bytes = npt.NDArray[np.uint8]

_VALUE_BITS: dict[torch.dtype, int] = {
    torch.float64: 64,
    torch.float32: 32,
    torch.float16: 16,
    torch.bfloat16: 16,
}

_HUGE = 4 << 20  # bytes from which numpy asks for huge pages


class NonFiniteError(RunError, ValueError):
    """A vector to compress holds NaN or inf: one inf would zero every other coordinate through a norm."""


class CompressorOptionError(InputError, ValueError):
    """A compressor was given a name or an option it does not have, or a value out of range."""


class PayloadError(ProtocolError, ValueError):
    """Bytes that no encoder of ours made: wrong length, or an index outside the vector."""


@dataclass(frozen=True)
class Layout:
    """What the receiver knows of a vector before its bytes: length `d`, `dtype`, and where it shall lie."""

    d: int
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")  # noqa: RUF009  an immutable value


@dataclass(frozen=True)
class Encoded:
    """G compressed vectors: what they decode to, and their bytes.

    value:   `[G, d]` C(x), exactly what `decode` of the payload gives; it shares no memory with x.
    payload: uint8 `[total]`, on the CPU, the G payloads back to back.
    sizes:   bytes of each client's payload; they sum to `payload.size`.
    """

    value: Tensor
    payload: Bytes
    sizes: tuple[int, ...]

    @property
    def bits(self) -> int:
        """Bits counted for these messages: 8 x the bytes."""
        return 8 * self.payload.size

    def split(self) -> list[Bytes]:
        """The G payloads, one view a client."""
        return split(self.payload, self.sizes)


class Compressor(ABC):
    """An operator C on vectors: a frozen dataclass whose fields are the experiment file's options.

    A subclass writes `encode`, `decode` and `bits`, and `omega` or `delta` where theory gives one.
    `encode` of a stack must equal `encode` of its rows one by one: row g draws only from generator g.
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    """Option tables the contract tests build it with."""

    @abstractmethod
    def encode(self, x: Tensor, generators: Sequence[torch.Generator]) -> Encoded:
        """Compress `x` `[G, d]`, with one CPU generator a client.

        Raises NonFiniteError, naming the rows, if x holds NaN or inf.
        """

    @abstractmethod
    def decode(
        self,
        payload: Bytes,
        sizes: Sequence[int],
        like: Layout,
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        """`[G, d]` from the G payloads; `generators` stand where the sender's stood before `encode`.

        Raises PayloadError if the bytes cannot be one of ours.
        """

    @abstractmethod
    def bits(self, d: int, dtype: torch.dtype = torch.float32) -> float:
        """Expected bits of one message of a `d`-vector."""

    def omega(self, d: int) -> float | None:
        """omega with E C(x) = x and E|C(x) - x|^2 <= omega |x|^2 for all x in R^d; None if C is biased."""
        return None

    def delta(self, d: int) -> float | None:
        """delta with E|C(x) - x|^2 <= (1 - delta) |x|^2 for all x in R^d; None if C is no contraction.

        An unbiased operator answers only where it is lossless (1.0); see `contraction` for its scaled form.
        """
        return 1.0 if self.omega(d) == 0.0 else None

    @property
    def unbiased(self) -> bool:
        """Whether E C(x) = x for every x, whatever d."""
        return self.omega(1 << 30) is not None


def value_bits(dtype: torch.dtype) -> int:
    """W: bits of one uncompressed coordinate. Raises CompressorOptionError for any other dtype."""
    try:
        return _VALUE_BITS[dtype]
    except KeyError:
        raise CompressorOptionError(
            f"compressors take float64, float32, float16 or bfloat16 vectors, not {dtype}"
        ) from None


def check_stack(x: Tensor, generators: Sequence[torch.Generator]) -> None:
    """Raise unless x is a finite float stack `[G, d]`, G and d at least 1, with one generator a row."""
    value_bits(x.dtype)
    if x.ndim != 2 or x.numel() == 0:
        raise ValueError(f"a compressor takes a stack [G, d], G and d at least 1, not shape {tuple(x.shape)}")
    if x.shape[0] != len(generators):
        raise ValueError(f"{x.shape[0]} vectors need as many generators, not {len(generators)}")
    # NaN and inf survive every sum, so a finite sum proves finite terms in one cheap pass; the converse may
    # fail by overflow, hence the exact look before anything is said.
    if math.isfinite(x.sum().item()) or bool(torch.isfinite(x).all()):
        return
    rows = [g for g in range(x.shape[0]) if not bool(torch.isfinite(x[g]).all())]
    names = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
    raise NonFiniteError(
        f"row {names} of the stack to compress holds NaN or inf: nothing was sent. "
        "The step size is probably too large, or the data hold NaN."
    )


def check_payload(payload: Bytes, sizes: Sequence[int], expected: int) -> None:
    """Raise PayloadError unless there are payloads, each of `expected` bytes."""
    if sizes.count(expected) != len(sizes):
        row = next(row for row, size in enumerate(sizes) if size != expected)
        raise PayloadError(f"payload {row} has {sizes[row]} bytes where {expected} were due")
    if not len(sizes) or len(sizes) * expected != payload.size:
        _check_sum(payload, sizes)


def split(payload: Bytes, sizes: Sequence[int]) -> list[Bytes]:
    """The payloads one by one, as views. Raises PayloadError if the sizes do not sum to the payload."""
    _check_sum(payload, sizes)
    ends = list(itertools.accumulate(sizes))
    return [payload[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def joined(payloads: list[Bytes]) -> Bytes:
    """The payloads back to back; the inverse of `split`. It takes them out of the list, and holds none twice."""
    if len(payloads) == 1:
        return payloads.pop()
    size = sum(payload.size for payload in payloads)
    whole: Bytes = empty((1, size), Layout(size, torch.uint8)).numpy()[0]
    payloads.reverse()
    end = 0
    while payloads:
        payload = payloads.pop()
        start, end = end, end + payload.size
        whole[start:end] = payload
    return whole


def _check_sum(payload: Bytes, sizes: Sequence[int]) -> None:
    if sum(sizes) != payload.size or min(sizes, default=-1) < 0:
        raise PayloadError(f"the payload has {payload.size} bytes but its sizes sum to {sum(sizes)}")


def empty(shape: tuple[int, int], like: Layout) -> Tensor:
    """An uninitialised stack of `like.dtype` on `like.device`.

    A long one on the CPU is allocated by numpy: it asks the kernel for huge pages, which torch does not, and a
    fresh 44 MB vector then costs 1 ms of page faults, not 15.
    """
    return _allocate(shape, like, torch.empty, np.empty)


def zeros(shape: tuple[int, int], like: Layout) -> Tensor:
    """As `empty`, all zero."""
    return _allocate(shape, like, torch.zeros, np.zeros)


def _allocate(
    shape: tuple[int, int], like: Layout, ours: Callable[..., Tensor], theirs: Callable[..., Bytes]
) -> Tensor:
    size = shape[0] * shape[1] * like.dtype.itemsize
    if like.device.type != "cpu" or size < _HUGE:
        return ours(shape, dtype=like.dtype, device=like.device)
    return torch.from_numpy(theirs(size, np.uint8)).view(like.dtype).view(shape)


def layout_of(x: Tensor) -> Layout:
    """What a receiver on the same device would know of the stack `x` `[G, d]`."""
    return Layout(x.shape[1], x.dtype, x.device)


def copy_of(x: Tensor) -> Tensor:
    """A contiguous copy of the stack `x` `[G, d]`."""
    if x.numel() * x.element_size() < _HUGE:
        return x.clone(memory_format=torch.contiguous_format)
    return empty((x.shape[0], x.shape[1]), layout_of(x)).copy_(x)


def placed(values: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. A GPU is not waited for, and the memory here may be written again at once."""
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def to_bytes(values: Tensor) -> Bytes:
    """`[G, K]` values as they lie in memory (little-endian): uint8 `[G, K * W / 8]`, a copy on the CPU."""
    flat = values.detach().contiguous().view(torch.uint8).cpu().numpy()
    return flat.copy() if values.device.type == "cpu" else flat


def from_bytes(raw: Bytes, like: Layout) -> Tensor:
    """`[G, K]` of `like.dtype` on `like.device` from uint8 `[G, K * W / 8]`; the inverse of `to_bytes`."""
    width = value_bits(like.dtype) // 8
    shape = (raw.shape[0], raw.shape[1] // width)
    values = empty(shape, Layout(like.d, like.dtype))
    values.view(torch.uint8).numpy()[...] = raw
    return values.to(like.device)


def saturate(values: Tensor) -> Tensor:
    """Put what overflowed in place back to the largest finite number: a scaled finite vector stays finite."""
    largest = torch.finfo(values.dtype).max
    return values.clamp_(-largest, largest)
