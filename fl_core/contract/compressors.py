"""The battery for a compressor: its bytes, its randomness, and the omega or delta that it claims."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compressors.compressor import Compressor, Encoded, Layout, NonFiniteError, PayloadError, layout_of
from fl_core.contract.finding import BrokenError, Check, Finding, NotApplicableError, findings, judged
from fl_core.contract.subject import CompressorSubject
from fl_core.contract.trajectory import same
from fl_core.randomness import generator

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LENGTHS = (1, 2, 3, 30, 101)
_DRAWS = 4000
_SIGMAS = 6.0  # a true statement fails once in 10^9 draws, and the seeds are fixed


def check_compressor(subject: CompressorSubject) -> Iterator[Finding]:
    """The findings, one after the other; none after a file that does not load."""
    loaded: list[Compressor] = []

    def loads(subject: CompressorSubject) -> str:
        compressor = subject.build()
        loaded.append(compressor)
        options = {field.name: getattr(compressor, field.name) for field in dataclasses.fields(compressor)}  # type: ignore[arg-type]  # build() has seen that it is one
        listed = ", ".join(f"{name} = {value!r}" for name, value in options.items()) or "no options"
        return f"{type(compressor).__name__} in {subject.name}: {listed}"

    yield judged("loads", loads, subject)
    if loaded:
        yield from findings(_CHECKS, _FACTS, loaded[0])


# --- bytes ---------------------------------------------------------------------------------------------------------------


def _decodes(compressor: Compressor) -> str:
    seen = 0
    for x in _stacks(5):
        before = x.clone()
        encoded = compressor.encode(x, _sources(5))
        _check_form(encoded, x)
        if not same(x, before):
            raise BrokenError(f"encode changed x in place ({_what(x)})")
        decoded = compressor.decode(encoded.payload, encoded.sizes, layout_of(x), _sources(5))
        if not same(decoded, encoded.value):
            gap = float((decoded.double() - encoded.value.double()).abs().max())
            raise BrokenError(f"decode(payload) is not value, by {gap:.3g} ({_what(x)})")
        x.fill_(7)
        if not same(decoded, encoded.value):
            raise BrokenError(f"value shares memory with x ({_what(x)})")
        seen += 1
    return f"{seen} stacks of 5 vectors, d in {', '.join(map(str, LENGTHS))}, four types: bit for bit"


def _rows(compressor: Compressor) -> str:
    for x in _stacks(3):
        together = compressor.encode(x, _sources(3))
        for g, piece in enumerate(together.split()):
            alone = compressor.encode(x[g : g + 1], _sources(3)[g : g + 1])
            if not np.array_equal(alone.payload, piece) or not same(alone.value, together.value[g : g + 1]):
                raise BrokenError(f"row {g} of 3 encodes differently alone than in the stack ({_what(x)})")
    return "a stack of clients gives the bytes of each alone"


def _deterministic(compressor: Compressor) -> str:
    x = _stack(4, 101, torch.float32)
    torch.manual_seed(1)
    first = compressor.encode(x, _sources(4))
    torch.manual_seed(2)
    again = compressor.encode(x, _sources(4))
    if not np.array_equal(first.payload, again.payload) or not same(first.value, again.value):
        raise BrokenError("the same generators gave other bytes: it draws from somewhere else (torch's global one?)")
    return "the same generators give the same bytes"


def _sizes(compressor: Compressor) -> str:
    worst = 0.0
    for dtype in DTYPES:
        for d in (*LENGTHS, 1000):
            sizes = np.array(compressor.encode(_stack(200, d, dtype), _sources(200)).sizes, dtype=float)
            expected = compressor.bits(d, dtype) / 8
            gap = abs(float(sizes.mean()) - expected)
            worst = max(worst, gap)
            if gap > 16 + _SIGMAS * float(sizes.std()) / math.sqrt(len(sizes)):
                raise BrokenError(f"bits(d = {d}, {dtype}) says {expected:.1f} bytes, and {sizes.mean():.1f} are sent")
    return f"bits(d) / 8 is the mean payload to within {worst:.1f} bytes (16 are allowed)"


def _refuses(compressor: Compressor) -> str:
    encoded = compressor.encode(_stack(1, 30, torch.float32), _sources(1))
    longer = np.append(encoded.payload, np.uint8(0))
    wrong = [(longer, longer.size)] + ([(encoded.payload[:-1], encoded.payload.size - 1)] if encoded.payload.size else [])
    for payload, size in wrong:
        if not _raises(PayloadError, lambda p=payload, s=size: compressor.decode(p, (s,), Layout(30), _sources(1))):  # type: ignore[misc]
            raise BrokenError(f"decode took {size} bytes where {encoded.payload.size} were due; raise PayloadError (check_payload)")
    return "a payload of the wrong length raises PayloadError"


# --- values --------------------------------------------------------------------------------------------------------------


def _zero(compressor: Compressor) -> str:
    for dtype in DTYPES:
        x = _stack(4, 30, dtype)
        x[1::2] = 0
        value = compressor.encode(x, _sources(4)).value
        if bool(value[1::2].any()) or not bool(torch.isfinite(value).all()):
            raise BrokenError(f"C(0) is {value[1].tolist()[:3]}... ({dtype}): divide by no norm that may be 0")
    return "C(0) = 0, in four types"


def _non_finite(compressor: Compressor) -> str:
    for bad in (math.nan, math.inf):
        x = _stack(4, 30, torch.float32)
        x[2, 17] = bad
        if not _raises(NonFiniteError, lambda x=x: compressor.encode(x, _sources(4))):  # type: ignore[misc]
            raise BrokenError(f"a vector with {bad} was encoded; call compressors.compressor.check_stack first")
    return "NaN and inf raise NonFiniteError"


def _lossless(compressor: Compressor) -> str:
    seen = []
    for d in (1, 30):
        if compressor.omega(d) == 0 or compressor.delta(d) == 1:
            x = _stack(3, d, torch.float32)
            if not same(compressor.encode(x, _sources(3)).value, x):
                raise BrokenError(f"omega({d}) is 0 or delta({d}) is 1, and the value is not x")
            seen.append(str(d))
    if not seen:
        raise NotApplicableError("it claims to be lossless nowhere (d = 1, 30)")
    return f"d = {', '.join(seen)}: the value is x, bit for bit"


def _unbiased(compressor: Compressor) -> str:
    told = []
    for d in (2, 30):
        omega = compressor.omega(d)
        if omega is None:
            continue
        for x in _vectors(d):
            sample = _sample(compressor, x)
            if sample.bias > _SIGMAS:
                raise BrokenError(f"omega({d}) = {omega:g} says unbiased, and a mean of {_DRAWS} draws is off by "
                                  f"{sample.bias:.1f} standard errors")  # fmt: skip
            if not sample.within(omega):
                raise BrokenError(f"omega({d}) = {omega:g}, and E|C(x) - x|² / |x|² is {sample.error:.4g} ± {sample.spread:.2g}")
        told.append(f"omega({d}) = {omega:g}")
    if not told:
        raise NotApplicableError("it claims no omega (E C(x) = x)")
    return f"{', '.join(told)}: mean and variance of {_DRAWS} draws at 4 vectors agree"


def _contraction(compressor: Compressor) -> str:
    told = []
    for d in (2, 30):
        delta = compressor.delta(d)
        if delta is None:
            continue
        if not 0 < delta <= 1:
            raise BrokenError(f"delta({d}) = {delta:g} is not in (0, 1]")
        for x in _vectors(d):
            sample = _sample(compressor, x)
            if not sample.within(1 - delta):
                raise BrokenError(f"delta({d}) = {delta:g}, and E|C(x) - x|² / |x|² is {sample.error:.4g} ± {sample.spread:.2g}")
        told.append(f"delta({d}) = {delta:g}")
    if not told:
        raise NotApplicableError("it claims no delta (E|C(x) - x|² <= (1 - delta)|x|²)")
    return f"{', '.join(told)}: E|C(x) - x|² of {_DRAWS} draws at 4 vectors is within it"


# --- facts ---------------------------------------------------------------------------------------------------------------


def _measured(compressor: Compressor) -> str:
    worst_bias, worst_error = 0.0, 0.0
    for x in _vectors(30):
        sample = _sample(compressor, x)
        worst_bias, worst_error = max(worst_bias, sample.bias), max(worst_error, sample.error)
    bias = "no bias" if worst_bias <= _SIGMAS else "biased"
    return f"d = 30: {bias} seen, E|C(x) - x|² / |x|² up to {worst_error:.4g} at 4 vectors"


def _size_and_speed(compressor: Compressor) -> str:
    d = 1_000_000
    x = torch.randn(1, d, generator=generator(0, "speed"))
    started = time.perf_counter()
    encoded = compressor.encode(x, _sources(1))
    encoded_s = time.perf_counter() - started
    compressor.decode(encoded.payload, encoded.sizes, Layout(d), _sources(1))
    decoded_s = time.perf_counter() - started - encoded_s
    return (f"d = {d:,}: {encoded.payload.size:,} bytes for {4 * d:,}, encode {1e3 * encoded_s:.0f} ms, "
            f"decode {1e3 * decoded_s:.0f} ms")  # fmt: skip


# --- what they are tried on ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sample:
    bias: float  # in standard errors, the largest over coordinates and along x
    error: float  # mean of |C(x) - x|² / |x|²
    spread: float  # its standard error

    def within(self, bound: float) -> bool:
        return self.error <= bound * (1 + 1e-9) + 1e-12 + _SIGMAS * self.spread


def _sample(compressor: Compressor, x: Tensor) -> _Sample:
    source = generator(7, "draws")
    draws = compressor.encode(x.expand(_DRAWS, -1).contiguous(), [source] * _DRAWS).value
    errors = (draws - x).square().sum(dim=1) / x.square().sum()
    directions = torch.cat([torch.eye(len(x), dtype=x.dtype), x[None]])
    along = draws @ directions.T
    gap = (along.mean(dim=0) - directions @ x).abs()
    spread = along.std(dim=0) / math.sqrt(_DRAWS)
    scores = torch.where(gap <= 1e-12 * x.abs().sum(), torch.zeros_like(gap), gap / spread)
    return _Sample(float(scores.max()), float(errors.mean()), float(errors.std()) / math.sqrt(_DRAWS))


def _vectors(d: int) -> list[Tensor]:
    """Unlike ones: random, flat, one coordinate, decaying; float64 `[d]`."""
    ones = torch.ones(d, dtype=torch.float64)
    return [
        torch.randn(d, generator=generator(5, "vector"), dtype=torch.float64),
        ones,
        3 * torch.eye(d, dtype=torch.float64)[0],
        torch.linspace(0.5, 4 / 3, d, dtype=torch.float64) ** 5,
    ]


def _stacks(rows: int) -> Iterator[Tensor]:
    return (_stack(rows, d, dtype) for dtype in DTYPES for d in LENGTHS)


def _stack(rows: int, d: int, dtype: torch.dtype) -> Tensor:
    x = torch.randn(rows, d, generator=generator(rows, "stack", d), dtype=torch.float64)
    return (x * torch.logspace(-1, 1, d, dtype=torch.float64)).to(dtype)


def _sources(count: int) -> list[torch.Generator]:
    return [generator(0, "client", g) for g in range(count)]


def _check_form(encoded: Encoded, x: Tensor) -> None:
    value = encoded.value
    if value.shape != x.shape or value.dtype != x.dtype:
        raise BrokenError(f"value is {value.dtype} {list(value.shape)} ({_what(x)})")
    if encoded.payload.dtype != np.uint8 or len(encoded.sizes) != len(x) or sum(encoded.sizes) != encoded.payload.size:
        raise BrokenError(f"payload is {encoded.payload.dtype} [{encoded.payload.size}] with sizes {encoded.sizes} ({_what(x)})")


def _what(x: Tensor) -> str:
    return f"d = {x.shape[1]}, {str(x.dtype).removeprefix('torch.')}"


def _raises(kind: type[Exception], call: Callable[[], object]) -> bool:
    try:
        call()
    except kind:
        return True
    return False


_CHECKS: dict[str, Check[Compressor]] = {
    "encode and decode": _decodes,
    "clients do not mix": _rows,
    "deterministic": _deterministic,
    "sizes": _sizes,
    "wrong bytes": _refuses,
    "zero vector": _zero,
    "not finite": _non_finite,
    "lossless": _lossless,
    "unbiased (omega)": _unbiased,
    "contraction (delta)": _contraction,
}
_FACTS: dict[str, Check[Compressor]] = {"measured": _measured, "a long vector": _size_and_speed}

__all__ = ["check_compressor"]
