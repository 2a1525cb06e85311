"""The contract, held against every operator file in the folder: a new file is tested without touching this one."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from compressors.build import build, names, operator_in
from compressors.compressor import Compressor, Layout, NonFiniteError, PayloadError, value_bits

Generators = Callable[..., list[torch.Generator]]
SameBits = Callable[[Tensor, Tensor], bool]

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
LENGTHS = [1, 2, 3, 16, 30, 101, 1000]  # 101 is prime


def _cases() -> list[Any]:
    cases: list[Any] = []
    for name in names():
        operator = operator_in(importlib.import_module(f"compressors.{name.replace('-', '_')}"))
        assert operator is not None
        for options in operator.examples:
            cases.append(pytest.param(build(name, options), id=f"{name}-{len(cases)}"))
    return cases


every_operator = pytest.mark.parametrize("compressor", _cases())
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def _stack(rows: int, d: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(rows * 1000 + d)
    x = torch.randn(rows, d, generator=generator, dtype=torch.float64)
    return (x * torch.logspace(-1, 1, d, dtype=torch.float64)).to(dtype)


def test_every_file_of_the_issue_is_there() -> None:
    """The names an experiment file may use are all found."""
    assert set(names()) >= {
        "identity", "lazy", "randk", "topk", "rankk", "natural", "std-dithering", "natural-dithering", "qsgd",
        "terngrad", "compose", "switch",
    }  # fmt: skip


@every_operator
@every_dtype
def test_value_is_what_the_payload_decodes_to(
    compressor: Compressor, dtype: torch.dtype, generators: Generators, same_bits: SameBits
) -> None:
    """Bit for bit, with generators the receiver re-creates; and x is neither changed nor shared."""
    for d in LENGTHS:
        x = _stack(5, d, dtype)
        before, like = x.clone(), Layout(d, dtype)
        encoded = compressor.encode(x, generators(5))
        assert encoded.value.shape == x.shape
        assert encoded.value.dtype is dtype
        assert encoded.payload.dtype == np.uint8
        assert len(encoded.sizes) == 5
        assert sum(encoded.sizes) == encoded.payload.size
        assert same_bits(x, before)
        decoded = compressor.decode(encoded.payload, encoded.sizes, like, generators(5))
        assert same_bits(decoded, encoded.value)
        x.fill_(7)
        assert same_bits(decoded, encoded.value)
        assert same_bits(compressor.decode(encoded.payload, encoded.sizes, like, generators(5)), decoded)


@every_operator
@every_dtype
def test_a_stack_is_its_rows(
    compressor: Compressor, dtype: torch.dtype, generators: Generators, same_bits: SameBits
) -> None:
    """Encoding or decoding G clients together gives the bytes of each alone, whoever shares the stack."""
    for d in (1, 3, 101, 1000, 70_000):
        x, like = _stack(3, d, dtype), Layout(d, dtype)
        together = compressor.encode(x, generators(3))
        decoded = compressor.decode(together.payload, together.sizes, like, generators(3))
        for g, piece in enumerate(together.split()):
            alone = compressor.encode(x[g : g + 1], generators(3)[g : g + 1])
            assert np.array_equal(alone.payload, piece)
            assert same_bits(alone.value, together.value[g : g + 1])
            one = compressor.decode(piece, (piece.size,), like, generators(3)[g : g + 1])
            assert same_bits(one, decoded[g : g + 1])


@every_operator
@every_dtype
def test_bits_are_the_bytes_sent(compressor: Compressor, dtype: torch.dtype, generators: Generators) -> None:
    """The payload, or its mean where its length is random, is within 16 bytes a vector of `bits(d)`."""
    draws = 200
    for d in LENGTHS:
        sizes = np.array(compressor.encode(_stack(draws, d, dtype), generators(draws)).sizes, dtype=float)
        chance = 6 * sizes.std() / np.sqrt(draws)
        assert abs(sizes.mean() - compressor.bits(d, dtype) / 8) <= 16 + chance


@every_operator
@every_dtype
def test_zero_stays_zero(compressor: Compressor, dtype: torch.dtype, generators: Generators) -> None:
    """No norm is divided by; other rows are not disturbed."""
    x = _stack(4, 30, dtype)
    x[1::2] = 0
    value = compressor.encode(x, generators(4)).value
    assert not value[1::2].any()
    assert bool(torch.isfinite(value).all())


@every_operator
@every_dtype
def test_non_finite_rows_are_named(compressor: Compressor, dtype: torch.dtype, generators: Generators) -> None:
    """NaN and inf raise, with the row."""
    for bad in (float("nan"), float("inf"), float("-inf")):
        x = _stack(4, 30, dtype)
        x[2, 17] = bad
        with pytest.raises(NonFiniteError, match="row 2 "):
            compressor.encode(x, generators(4))


@every_operator
@every_dtype
def test_extremes_stay_finite(compressor: Compressor, dtype: torch.dtype, generators: Generators) -> None:
    """Vectors near the ends of the range give finite values, or an error that says so."""
    limits = torch.finfo(dtype)
    tiny = torch.full((2, 30), limits.smallest_normal / 4, dtype=torch.float64).to(dtype)
    assert bool(torch.isfinite(compressor.encode(tiny, generators(2)).value).all())
    huge = torch.full((2, 30), limits.max, dtype=dtype)
    try:
        value = compressor.encode(huge, generators(2)).value
    except NonFiniteError as error:
        assert dtype in (torch.float32, torch.float64, torch.bfloat16)
        assert "norm is beyond the range" in str(error)  # noqa: PT017
    else:
        assert bool(torch.isfinite(value).all())


@every_operator
def test_a_strided_stack_is_read_right(compressor: Compressor, generators: Generators, same_bits: SameBits) -> None:
    """A transposed or graph-attached stack encodes like its plain copy."""
    x = _stack(30, 4, torch.float32).T
    assert not x.is_contiguous()
    strided, plain = compressor.encode(x, generators(4)), compressor.encode(x.contiguous(), generators(4))
    assert same_bits(strided.value, plain.value)
    assert np.array_equal(strided.payload, plain.payload)
    attached = compressor.encode(x.clone().requires_grad_(), generators(4))
    assert not attached.value.requires_grad
    assert same_bits(attached.value, plain.value)


@every_operator
def test_wrong_lengths_are_refused(compressor: Compressor, generators: Generators) -> None:
    """A byte too many or too few, or sizes that do not add up, is a PayloadError."""
    d = 300
    encoded = compressor.encode(_stack(1, d, torch.float32), generators(1))
    like = Layout(d)
    longer = np.append(encoded.payload, np.uint8(0))
    with pytest.raises(PayloadError):
        compressor.decode(longer, (longer.size,), like, generators(1))
    with pytest.raises(PayloadError):
        compressor.decode(longer, encoded.sizes, like, generators(1))
    if encoded.payload.size:
        with pytest.raises(PayloadError):
            compressor.decode(encoded.payload[:-1], (encoded.payload.size - 1,), like, generators(1))


@every_operator
def test_threads_change_nothing(compressor: Compressor, generators: Generators) -> None:
    """One intra-op thread and two give the same bytes, but where LAPACK is asked for factors."""
    if "RankK" in repr(compressor):
        pytest.skip("LAPACK rounds by the number of threads; that number is the experiment's choice")
    x = _stack(2, 140_000, torch.float32)
    try:
        torch.set_num_threads(2)
        two = compressor.encode(x, generators(2))
    finally:
        torch.set_num_threads(1)
    one = compressor.encode(x, generators(2))
    assert np.array_equal(one.payload, two.payload)


@every_operator
@pytest.mark.parametrize("d", [2, 30])
def test_omega_delta_and_bias_hold(compressor: Compressor, d: int, draw: Callable[..., Any]) -> None:
    """E C(x) = x where `unbiased` says so, and the error stays within omega or 1 - delta, on unlike vectors."""
    vectors = [
        torch.randn(d, generator=torch.Generator().manual_seed(5)),
        torch.ones(d),
        torch.eye(d)[0] * 3,
        torch.linspace(0.5, 4 / 3, d) ** 5,
    ]
    omega, delta = compressor.omega(d), compressor.delta(d)
    assert compressor.unbiased <= (omega is not None)
    for x in vectors:
        sample = draw(compressor, x, 1000)
        if omega is not None:
            assert sample.is_unbiased(), (x, sample.bias())
            assert sample.is_within(omega), (x, sample.error)
        if delta is not None:
            assert 0 < delta <= 1
            assert sample.is_within(1 - delta), (x, sample.error)


@every_operator
@every_dtype
def test_lossless_means_lossless(
    compressor: Compressor, dtype: torch.dtype, generators: Generators, same_bits: SameBits
) -> None:
    """Where omega is 0 (or delta 1), nothing is lost: the value is x, bit for bit."""
    for d in (1, 30):
        if compressor.omega(d) != 0 and compressor.delta(d) != 1:
            continue
        x = _stack(3, d, dtype)
        assert same_bits(compressor.encode(x, generators(3)).value, x)


@every_operator
def test_dense_is_never_beaten_by_more_than_a_header(compressor: Compressor) -> None:
    """Expected bits are positive and at most W d and a norm."""
    for dtype in DTYPES:
        for d in LENGTHS:
            assert 0 < compressor.bits(d, dtype) <= value_bits(dtype) * d + 64 + 4 * d
