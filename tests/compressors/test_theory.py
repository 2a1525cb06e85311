"""Every operator against its formula: bias, exact variances, worst-case vectors. And each check against a wrong one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from compressors.build import build
from compressors.chain import Draft
from compressors.lazy import Lazy
from compressors.natural import Natural
from compressors.natural_dithering import NaturalDithering
from compressors.qsgd import Qsgd
from compressors.randk import RandK
from compressors.rankk import RankK
from compressors.std_dithering import StdDithering
from compressors.terngrad import Terngrad
from compressors.topk import TopK

Draw = Callable[..., Any]

D = 24


def _vectors(d: int = D) -> list[Tensor]:
    generator = torch.Generator().manual_seed(11)
    normal = torch.randn(d, generator=generator).double()
    return [normal, normal**3, torch.ones(d).double(), torch.linspace(-1, 2, d).double().exp()]


@pytest.mark.parametrize(
    ("name", "options", "omega"),
    [
        ("randk", {"k": 6}, D / 6 - 1),
        ("randk", {"k": "50%"}, 1.0),
        ("randk", {"k": 1}, D - 1),
        ("lazy", {"p": 0.2}, 4.0),
        ("compose", {"of": [{"name": "randk", "k": 12}, {"name": "lazy", "p": 0.5}]}, 3.0),
        ("compose", {"of": [{"name": "lazy", "p": 0.5}, {"name": "randk", "k": 12}]}, 3.0),
        ("compose", {"of": [{"name": "randk", "k": 12}, {"name": "randk", "k": 8}]}, 5.0),
        ("switch", {"of": [{"name": "lazy", "p": 0.5}, {"name": "randk", "k": 6}], "weights": [3, 1]}, 1.5),
    ],
)
def test_equalities_hold_for_every_x(name: str, options: dict[str, Any], omega: float, draw: Draw) -> None:
    """E|C(x) - x|^2 = omega |x|^2 and E C(x) = x, with omega the sheet's, on every vector."""
    compressor = build(name, options)
    assert compressor.omega(D) == pytest.approx(omega, rel=1e-12)
    for x in _vectors():
        sample = draw(compressor, x, 3000)
        assert sample.is_unbiased()
        assert sample.equals(omega)


def test_natural_at_its_worst_vector(draw: Draw) -> None:
    """omega = 1/8 is attained at m = 4/3, whatever the exponents and signs; elsewhere the variance is (m-1)(2-m)."""
    worst = torch.tensor([4 / 3, -8 / 3, 4 / 3 * 2**-30, 4 / 3 * 2**40]).double()
    assert draw(Natural(), worst).equals(0.125)
    for m in (1.1, 1.5, 1.9):
        x = torch.full((D,), m).double()
        sample = draw(Natural(), x)
        assert sample.is_unbiased()
        assert sample.equals((m - 1) * (2 - m) / m**2)


@pytest.mark.parametrize("s", [1, 2, 4, 7, 100])
@pytest.mark.parametrize("norm", [1, 1.5, 2, "inf"])
def test_dithering_variance_is_the_exact_one(s: int, norm: float | str, draw: Draw) -> None:
    """|x|_p^2/s^2 sum r(1-r), r the fractional parts of s|x|/|x|_p; and it stays within omega."""
    compressor = StdDithering(s, norm)
    for x in _vectors():
        size = torch.linalg.vector_norm(x, float(norm))
        r = (s * x.abs() / size).frac()
        exact = float((size / s) ** 2 * (r * (1 - r)).sum() / x.square().sum())
        sample = draw(compressor, x, 6000)
        assert sample.is_unbiased()
        assert sample.equals(exact)
        assert exact <= compressor.omega(D)


@pytest.mark.parametrize("s", [1, 2, 5, 12])
@pytest.mark.parametrize("norm", [1, 2, "inf"])
def test_natural_dithering_variance_is_the_exact_one(s: int, norm: float | str, draw: Draw) -> None:
    """|x|_p^2 sum (u - y)(y - l) over the levels l <= y <= u; and it stays within omega."""
    compressor = NaturalDithering(s, norm)
    levels = torch.tensor([0.0] + [2.0 ** (i - s) for i in range(1, s + 1)]).double()
    for x in _vectors():
        size = torch.linalg.vector_norm(x, float(norm))
        y = (x.abs() / size).clamp(max=1)
        upper = torch.searchsorted(levels, y).clamp(min=1)
        exact = float((size**2 * (levels[upper] - y) * (y - levels[upper - 1])).sum() / x.square().sum())
        sample = draw(compressor, x, 6000)
        assert sample.is_unbiased()
        assert sample.equals(exact)
        assert exact <= compressor.omega(D)


def test_terngrad_formula_and_worst_vector(draw: Draw) -> None:
    """|x|_inf |x|_1/|x|^2 - 1 for every x; (sqrt d - 1)/2 is attained at (1, a, ..., a), a = 1/(1 + sqrt d)."""
    for x in _vectors():
        exact = float(x.abs().max() * x.abs().sum() / x.square().sum() - 1)
        sample = draw(Terngrad(), x, 6000)
        assert sample.is_unbiased()
        assert sample.equals(exact)
        assert exact <= Terngrad().omega(D) + 1e-12
    worst = torch.full((D,), 1 / (1 + math.sqrt(D))).double()
    worst[0] = 1
    assert draw(Terngrad(), worst).equals((math.sqrt(D) - 1) / 2)
    assert Terngrad().omega(D) == StdDithering(1, "inf").omega(D) == pytest.approx((math.sqrt(D) - 1) / 2)


def test_qsgd_is_standard_dithering_with_the_euclidean_norm(generators: Callable[..., Any]) -> None:
    """The same bytes, and omega = min{d/(4 s^2), sqrt(d)/s}."""
    x = torch.randn(3, D, generator=torch.Generator().manual_seed(1))
    for s in (1, 4, 40):
        ours, theirs = Qsgd(s).encode(x, generators(3)), StdDithering(s, 2).encode(x, generators(3))
        assert (ours.payload == theirs.payload).all()
        for d in (2, 100, 10**6):
            assert Qsgd(s).omega(d) == pytest.approx(min(d / (4 * s * s), math.sqrt(d) / s))


def test_bounds_at_d_one_are_zero() -> None:
    """One coordinate is its own norm: dithering, TernGrad, Top-K and Rank-K lose nothing."""
    for compressor in (StdDithering(3, 1), NaturalDithering(3), Qsgd(1), Terngrad(), TopK(1), RankK(1)):
        assert compressor.omega(1) == 0.0
        assert compressor.delta(1) == 1.0
    assert Natural().omega(1) == 0.125


@pytest.mark.parametrize("k", [1, 5, D])
def test_topk_at_its_worst_vector(k: int, draw: Draw) -> None:
    """Where all |x_j| are equal the error is exactly (1 - K/d)|x|^2; elsewhere it is less."""
    assert TopK(k).delta(D) == k / D
    assert draw(TopK(k), torch.ones(D) * -3, 2).error == pytest.approx(1 - k / D, abs=1e-15)
    for x in _vectors():
        assert draw(TopK(k), x, 2).error <= 1 - k / D + 1e-15


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rankk_is_the_truncated_decomposition(dtype: torch.dtype, generators: Callable[..., Any]) -> None:
    """Its error is the sum of the dropped squared singular values, at most 1 - K/A, attained at equal ones."""
    x = torch.randn(1, 12 * 19, generator=torch.Generator().manual_seed(1)).to(dtype)
    singular = torch.linalg.svdvals(x.double().reshape(12, 19)).square()
    tolerance = 1e-12 if dtype is torch.float64 else 1e-6
    for k in (1, 3, 7):
        value = RankK(k).encode(x, generators(1)).value.double()
        assert torch.linalg.matrix_rank(value.reshape(12, 19), rtol=1e-5) == k
        error = float((value - x).square().sum())
        assert error == pytest.approx(float(singular[k:].sum()), rel=tolerance)
        assert RankK(k).delta(228) == k / 12
    flat = torch.eye(12, 19, dtype=dtype).reshape(1, -1)
    error = float((RankK(3).encode(flat, generators(1)).value - flat).square().sum() / 12)
    assert error == pytest.approx(1 - 3 / 12, rel=tolerance)


def test_rankk_of_a_low_rank_matrix_is_exact(generators: Callable[..., Any]) -> None:
    """A matrix of rank K comes back to rounding, and one with a zero row does not divide by 0."""
    generator = torch.Generator().manual_seed(1)
    left, right = torch.randn(12, 2, generator=generator), torch.randn(2, 19, generator=generator)
    left[3] = 0
    x = (left @ right).reshape(1, -1)
    assert torch.allclose(RankK(3).encode(x, generators(1)).value, x, atol=1e-5)
    assert not RankK(3).encode(torch.zeros(1, 228), generators(1)).value.any()


# ---------------------------------------------------------------- the checks tell right from wrong


@dataclass(frozen=True)
class _UnscaledRandK(RandK):
    def factor(self, d: int) -> float:
        return 1.0


@dataclass(frozen=True)
class _UnscaledLazy(Lazy):
    def factor(self, d: int) -> float:
        return 1.0


@dataclass(frozen=True)
class _TiedRandK(RandK):
    """Keeps the first coordinate more often than the others."""

    def pattern(self, d: int, generator: torch.Generator) -> Any:
        chosen = super().pattern(d, generator)
        if chosen is not None and float(torch.rand(1, generator=generator)) < 0.1:
            chosen[0] = 0
        return chosen


@dataclass(frozen=True)
class _RoundedNatural(Natural):
    """To the nearest power of two: smaller error, but biased."""

    def to_codes(self, x: Tensor, norms: Tensor, noise: Tensor) -> Tensor:
        return super().to_codes(x, norms, torch.full_like(noise, 1 << 51))


@dataclass(frozen=True)
class _FlooredQsgd(Qsgd):
    def to_codes(self, x: Tensor, norms: Tensor, noise: Tensor) -> Tensor:
        return super().to_codes(x, norms, torch.zeros_like(noise))


@dataclass(frozen=True)
class _ShortNormQsgd(Qsgd):
    """Divides by a norm 2 % short."""

    def to_values(self, codes: Tensor, norms: Tensor, dtype: torch.dtype) -> Tensor:
        return super().to_values(codes, norms * 0.98, dtype)


@dataclass(frozen=True)
class _SignlessTerngrad(Terngrad):
    def sign_bits(self, x: Tensor) -> Tensor:
        return torch.zeros_like(super().sign_bits(x))


@dataclass(frozen=True)
class _HalfNaturalDithering(NaturalDithering):
    """Log-uniform instead of linear probabilities: halves the mantissa that carries."""

    def to_codes(self, x: Tensor, norms: Tensor, noise: Tensor) -> Tensor:
        return super().to_codes(x, norms, (noise & ((1 << 52) - 1)) >> 1)


@pytest.mark.parametrize(
    "wrong",
    [
        _UnscaledRandK(6),
        _UnscaledLazy(0.5),
        _TiedRandK(6),
        _RoundedNatural(),
        _FlooredQsgd(4),
        _ShortNormQsgd(4),
        _SignlessTerngrad(),
        _HalfNaturalDithering(4),
    ],
    ids=lambda wrong: type(wrong).__name__,
)
def test_the_bias_check_fails_on_a_wrong_operator(wrong: Any, draw: Draw) -> None:
    """Forgotten rescale, uneven pattern, no noise, wrong norm, lost sign: each is seen; the right one passes."""
    x = _vectors()[0]
    assert not draw(wrong, x, 6000).is_unbiased()
    right = type(wrong).__mro__[1](**dataclasses.asdict(wrong))
    assert draw(right, x, 6000).is_unbiased()


@dataclass(frozen=True)
class _ShortTopK(TopK):
    """Takes one less than it says."""

    def apply(self, draft: Draft, generators: Sequence[torch.Generator]) -> None:
        assert isinstance(self.k, int)
        TopK(self.k - 1).apply(draft, generators)


@dataclass(frozen=True)
class _SmallestK(TopK):
    """Takes the first k, not the largest."""

    def apply(self, draft: Draft, generators: Sequence[torch.Generator]) -> None:
        assert isinstance(self.k, int)
        draft.keep(torch.arange(self.k).expand(draft.values.shape[0], -1))


def test_the_contraction_check_fails_on_a_wrong_operator(draw: Draw) -> None:
    """One coordinate too few at the worst vector, or the wrong ones elsewhere, exceed 1 - delta."""
    assert not draw(_ShortTopK(6), torch.ones(D), 2).is_within(1 - 6 / D)
    uneven = torch.linspace(0, 1, D).double()
    assert not draw(_SmallestK(6), uneven, 2).is_within(1 - 6 / D)
    assert draw(TopK(6), uneven, 2).is_within(1 - 6 / D)


def test_the_variance_check_fails_on_a_wrong_omega(draw: Draw) -> None:
    """A bound 5 % too small, or an equality 5 % off, does not pass."""
    x = _vectors()[0]
    sample = draw(RandK(6), x, 20_000)
    assert not sample.is_within(0.95 * 3)
    assert not sample.equals(1.05 * 3)
    assert not draw(Natural(), torch.full((D,), 4 / 3)).is_within(0.95 * 0.125)
