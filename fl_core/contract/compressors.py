"""The battery for a compressor: its bytes, its randomness, and the omega or delta that it claims."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from compressors.compressor import Compressor, Encoded, Layout, NonFiniteError, PayloadError, layout_of
from fl_core.contract.draws import (
    DRAWS,
    DTYPES,
    LENGTHS,
    SIGMAS,
    sample_of,
    sources,
    stack,
    stacks,
    vectors,
)
from fl_core.contract.finding import BrokenError, Check, Finding, NotApplicableError, check_names, findings, judged
from fl_core.contract.subject import CompressorSubject
from fl_core.contract.trajectory import same
from fl_core.randomness import generator


def check_compressor(subject: CompressorSubject, only: Collection[str] = ()) -> Iterator[Finding]:
    """The findings, one after the other; none after a file that does not load. Arguments as `check_algorithm`'s."""
    check_names(only, ("loads", *_CHECKS, *_FACTS))
    loaded: list[Compressor] = []

    def loads(subject: CompressorSubject) -> str:
        compressor = subject.build()
        loaded.append(compressor)
        options = {field.name: getattr(compressor, field.name) for field in dataclasses.fields(compressor)}  # type: ignore[arg-type]  # build() has seen that it is one
        listed = ", ".join(f"{name} = {value!r}" for name, value in options.items()) or "no options"
        return f"{type(compressor).__name__} in {subject.name}: {listed}"

    yield judged("loads", loads, subject)
    if loaded:
        yield from findings(_CHECKS, _FACTS, loaded[0], only)


# --- bytes ------------------------------------------------------------


def _decodes(compressor: Compressor) -> str:
    seen = 0
    for x in stacks(5):
        before = x.clone()
        encoded = compressor.encode(x, sources(5))
        _check_form(encoded, x)
        if not same(x, before):
            raise BrokenError(f"encode changed x in place ({_what(x)})")
        decoded = compressor.decode(encoded.payload, encoded.sizes, layout_of(x), sources(5))
        if not same(decoded, encoded.value):
            gap = float((decoded.double() - encoded.value.double()).abs().max())
            raise BrokenError(f"decode(payload) is not value, by {gap:.3g} ({_what(x)})")
        x.fill_(7)
        if not same(decoded, encoded.value):
            raise BrokenError(f"value shares memory with x ({_what(x)})")
        seen += 1
    return f"{seen} stacks of 5 vectors, d in {', '.join(map(str, LENGTHS))}, four types: bit for bit"


def _rows(compressor: Compressor) -> str:
    for x in stacks(3):
        together = compressor.encode(x, sources(3))
        for g, piece in enumerate(together.split()):
            alone = compressor.encode(x[g : g + 1], sources(3)[g : g + 1])
            if not np.array_equal(alone.payload, piece) or not same(alone.value, together.value[g : g + 1]):
                raise BrokenError(f"row {g} of 3 encodes differently alone than in the stack ({_what(x)})")
    return "a stack of clients gives the bytes of each alone"


def _deterministic(compressor: Compressor) -> str:
    x = stack(4, 101, torch.float32)
    torch.manual_seed(1)
    first = compressor.encode(x, sources(4))
    torch.manual_seed(2)
    again = compressor.encode(x, sources(4))
    if not np.array_equal(first.payload, again.payload) or not same(first.value, again.value):
        raise BrokenError("the same generators gave other bytes: it draws from somewhere else (torch's global one?)")
    return "the same generators give the same bytes"


def _sizes(compressor: Compressor) -> str:
    worst = 0.0
    for dtype in DTYPES:
        for d in (*LENGTHS, 1000):
            sizes = np.array(compressor.encode(stack(200, d, dtype), sources(200)).sizes, dtype=float)
            expected = compressor.bits(d, dtype) / 8
            gap = abs(float(sizes.mean()) - expected) - SIGMAS * float(sizes.std()) / math.sqrt(len(sizes))
            worst = max(worst, gap)
            if gap > 16:
                raise BrokenError(f"bits(d = {d}, {dtype}) says {expected:.1f} bytes, and {sizes.mean():.1f} are sent")
    return f"bits(d) / 8 is the mean payload, to within {worst:.1f} bytes beyond chance (16 are allowed)"


def _refuses(compressor: Compressor) -> str:
    encoded = compressor.encode(stack(1, 30, torch.float32), sources(1))
    due = encoded.payload.size
    wrong = [np.append(encoded.payload, np.uint8(0)), *([encoded.payload[:-1]] if due else [])]
    for payload in wrong:
        if not _raises(PayloadError, partial(compressor.decode, payload, (payload.size,), Layout(30), sources(1))):
            raise BrokenError(f"decode took {payload.size} bytes where {due} were due: raise PayloadError")
    return "a payload of the wrong length raises PayloadError"


# --- values ------------------------------------------------------------


def _zero(compressor: Compressor) -> str:
    for dtype in DTYPES:
        x = stack(4, 30, dtype)
        x[1::2] = 0
        value = compressor.encode(x, sources(4)).value
        if bool(value[1::2].any()) or not bool(torch.isfinite(value).all()):
            raise BrokenError(f"C(0) is {value[1].tolist()[:3]}... ({dtype}): divide by no norm that may be 0")
    return "C(0) = 0, in four types"


def _non_finite(compressor: Compressor) -> str:
    for bad in (math.nan, math.inf):
        x = stack(4, 30, torch.float32)
        x[2, 17] = bad
        if not _raises(NonFiniteError, partial(compressor.encode, x, sources(4))):
            raise BrokenError(f"a vector with {bad} was encoded; call compressors.compressor.check_stack first")
    return "NaN and inf raise NonFiniteError"


def _lossless(compressor: Compressor) -> str:
    seen = []
    for d in (1, 30):
        if compressor.omega(d) == 0 or compressor.delta(d) == 1:
            x = stack(3, d, torch.float32)
            if not same(compressor.encode(x, sources(3)).value, x):
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
        for x in vectors(d):
            sample = sample_of(compressor, x)
            if sample.bias > SIGMAS:
                raise BrokenError(f"omega({d}) = {omega:g} says unbiased, and a mean of {DRAWS} draws is off by "
                                  f"{sample.bias:.1f} standard errors")  # fmt: skip
            if not sample.within(omega):
                raise BrokenError(
                    f"omega({d}) = {omega:g}, and E|C(x) - x|² / |x|² is {sample.error:.4g} ± {sample.spread:.2g}"
                )
        told.append(f"omega({d}) = {omega:g}")
    if not told:
        raise NotApplicableError("it claims no omega (E C(x) = x)")
    return f"{', '.join(told)}: mean and variance of {DRAWS} draws at 4 vectors agree"


def _contraction(compressor: Compressor) -> str:
    told = []
    for d in (2, 30):
        delta = compressor.delta(d)
        if delta is None:
            continue
        if not 0 < delta <= 1:
            raise BrokenError(f"delta({d}) = {delta:g} is not in (0, 1]")
        for x in vectors(d):
            sample = sample_of(compressor, x)
            if not sample.within(1 - delta):
                raise BrokenError(f"delta({d}) = {delta:g}, and {sample}")
        told.append(f"delta({d}) = {delta:g}")
    if not told:
        raise NotApplicableError("it claims no delta (E|C(x) - x|² <= (1 - delta)|x|²)")
    return f"{', '.join(told)}: E|C(x) - x|² of {DRAWS} draws at 4 vectors is within it"


# --- facts ------------------------------------------------------------


def _measured(compressor: Compressor) -> str:
    worst_bias, worst_error = 0.0, 0.0
    for x in vectors(30):
        sample = sample_of(compressor, x)
        worst_bias, worst_error = max(worst_bias, sample.bias), max(worst_error, sample.error)
    bias = "no bias seen" if worst_bias <= SIGMAS else "biased"
    return f"d = 30: {bias}, E|C(x) - x|² / |x|² up to {worst_error:.4g} at 4 vectors"


def _size_and_speed(compressor: Compressor) -> str:
    d = 1_000_000
    x = torch.randn(1, d, generator=generator(0, "speed"))
    started = time.perf_counter()
    encoded = compressor.encode(x, sources(1))
    encoded_s = time.perf_counter() - started
    compressor.decode(encoded.payload, encoded.sizes, Layout(d), sources(1))
    decoded_s = time.perf_counter() - started - encoded_s
    return (f"d = {d:,}: {encoded.payload.size:,} bytes for {4 * d:,}, encode {1e3 * encoded_s:.0f} ms, "
            f"decode {1e3 * decoded_s:.0f} ms")  # fmt: skip


# --- how --------------------------------------------------------------------------------------------------------------


def _check_form(encoded: Encoded, x: Tensor) -> None:
    value = encoded.value
    if value.shape != x.shape or value.dtype != x.dtype:
        raise BrokenError(f"value is {value.dtype} {list(value.shape)} ({_what(x)})")
    payload, sizes = encoded.payload, encoded.sizes
    if payload.dtype != np.uint8 or len(sizes) != len(x) or sum(sizes) != payload.size:
        raise BrokenError(f"payload is {payload.dtype} [{payload.size}] with sizes {sizes} ({_what(x)})")


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
