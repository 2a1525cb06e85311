"""Compositions: their theory, their order, and their code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from compressors.compose import Compose
from compressors.compressor import Bytes, Compressor, CompressorOptionError, Encoded, Layout
from compressors.identity import Identity
from compressors.lazy import Lazy
from compressors.natural import Natural
from compressors.qsgd import Qsgd
from compressors.randk import RandK
from compressors.rankk import RankK
from compressors.switch import Switch
from compressors.terngrad import Terngrad
from compressors.topk import TopK

D = 24
Draw = Callable[..., Any]


def _x(seed: int = 2) -> Tensor:
    return torch.randn(D, generator=torch.Generator().manual_seed(seed)).double()


def test_the_first_of_the_list_is_the_outermost(generators: Callable[..., Any]) -> None:
    """of = [top-1, rand-k scaled] is Top-1(RandK(x)): one coordinate; RandK(Top-3) keeps some of the three."""
    x = _x()[None].expand(50, -1)
    outer_top = Compose([TopK(1), RandK(12)]).encode(x, generators(50)).value
    assert set((outer_top != 0).sum(dim=1).tolist()) == {1}
    assert len(set(outer_top.abs().argmax(dim=1).tolist())) > 1
    outer_rand = Compose([RandK(12), TopK(3)]).encode(x, generators(50)).value
    assert set((outer_rand != 0).sum(dim=1).tolist()) == {0, 1, 2, 3}


def test_the_law_is_that_of_applying_one_after_the_other(draw: Draw) -> None:
    """One message has the error and mean of doing it in two steps, for sparsifiers and quantizers in either order."""
    x, n = _x(), 3000
    for outer, inner in (
        (Natural(), RandK(6)),
        (RandK(6), Natural()),
        (Qsgd(2), RandK(6)),
        (RandK(6), Qsgd(2)),
        (Terngrad(), Lazy(0.5)),
        (Lazy(0.5), Terngrad()),
        (RandK(6), RandK(12)),
        (Qsgd(3), Natural()),
    ):
        one = draw(Compose([outer, inner]), x, n)
        generator = torch.Generator().manual_seed(99)
        stack = x.expand(n, -1).contiguous()
        between = inner.encode(stack, [generator] * n).value
        two = outer.encode(between, [generator] * n).value
        errors = (two - x).square().sum(dim=1) / x.square().sum()
        spread = (one.spread**2 + float(errors.std()) ** 2 / n) ** 0.5
        assert abs(one.error - float(errors.mean())) < 6 * spread
        assert one.is_unbiased()
        assert one.is_within(Compose([outer, inner]).omega(D))


def test_omega_multiplies() -> None:
    """(1 + w1)(1 + w2) - 1; a quantizer after Rand-K sees K coordinates, so its own omega is that of K."""
    assert Compose([Natural(), RandK(6)]).omega(D) == pytest.approx(1.125 * 4 - 1)
    assert Compose([RandK(6), Qsgd(2)]).omega(D) == pytest.approx(4 * (1 + Qsgd(2).omega(D)) - 1)
    assert Compose([Qsgd(2), RandK(6)]).omega(D) == pytest.approx(4 * (1 + Qsgd(2).omega(6)) - 1)
    assert Compose([Identity(), Identity()]).omega(D) == 0.0


@pytest.mark.parametrize(
    ("outer", "omega"), [(Natural(), 0.125), (RandK(12), 1.0), (Lazy(0.25), 3.0), (Qsgd(1), Qsgd(1).omega(6))]
)
def test_unbiased_over_contractive_is_scaled(outer: Compressor, omega: float, draw: Draw) -> None:
    """C1(C2 x)/(1 + w1) has delta2/(1 + w1), and its mean is C2(x)/(1 + w1)."""
    compressor = Compose([outer, TopK(6)])
    delta = 6 / D / (1 + omega)
    assert compressor.delta(D) == pytest.approx(delta)
    assert compressor.omega(D) is None
    assert not compressor.unbiased
    for x in (_x(), torch.ones(D)):
        sample = draw(compressor, x, 3000)
        assert sample.is_within(1 - delta)
        top = TopK(6).encode(x.double()[None], [torch.Generator()]).value[0]
        mean = sample.draws.mean(dim=0)
        spread = sample.draws.std(dim=0) / 3000**0.5
        assert bool(((mean - top / (1 + omega)).abs() <= 6 * spread + 1e-12).all())


def test_unscaled_it_would_be_no_contraction(draw: Draw) -> None:
    """The same check fails on the unscaled composition: Lazy(0.25) o Top-6 has error above |x|^2."""
    sample = draw(Compose([Lazy(0.25), TopK(6)]), _x(), 6000)
    sample.draws.mul_(4.0)
    assert not sample.is_within(1 - 6 / D / 4)


def test_contractive_over_contractive_is_refused() -> None:
    """Also when something stands between them, or inside a nested composition or switch."""
    for parts in (
        [TopK(3), TopK(6)],
        [TopK(3), Natural(), RankK(1)],
        [Compose([Natural(), TopK(3)]), RankK(1)],
        [TopK(2), Switch([TopK(1), Identity()])],
    ):
        with pytest.raises(CompressorOptionError, match="one biased operator over another"):
            Compose(parts)


def test_contractive_over_unbiased_claims_only_what_follows(draw: Draw) -> None:
    """A bound where the triangle inequality gives one below 1, else none; and the bound holds."""
    kept = Compose([TopK("90%"), Natural()])
    delta = kept.delta(D)
    assert delta is not None
    assert 0 < delta < 0.9
    assert draw(kept, _x(), 3000).is_within(1 - delta)
    assert Compose([TopK(3), RandK(3)]).delta(D) is None
    assert Compose([TopK(3), Identity()]).delta(D) == pytest.approx(3 / D)


def test_nested_compositions_are_flat(generators: Callable[..., Any]) -> None:
    """[a, [b, c]] is [a, b, c], and identities change no byte."""
    x = _x()[None].float()
    flat = Compose([Natural(), RandK(12), Lazy(0.9)])
    nested = Compose([Natural(), Compose([RandK(12), Lazy(0.9)])])
    assert flat == nested
    padded = Compose([Identity(), Natural(), Identity(), RandK(12), Lazy(0.9)])
    assert (padded.encode(x, generators(1)).payload == flat.encode(x, generators(1)).payload).all()


def test_an_empty_support_sends_nothing(generators: Callable[..., Any]) -> None:
    """An unsent lazy vector under quantizers has 0 bytes, header and all, and decodes to 0."""
    compressor = Compose([Qsgd(4), Lazy(0.5)])
    encoded = compressor.encode(torch.ones(40, D), generators(40))
    assert set(encoded.sizes) == {0, 4 + D // 2}
    decoded = compressor.decode(encoded.payload, encoded.sizes, Layout(D), generators(40))
    empty = torch.tensor(encoded.sizes) == 0
    assert not decoded[empty].any()
    assert bool((decoded[~empty] != 0).any(dim=1).all())


@dataclass(frozen=True)
class _Halved(Compressor):
    """As a user would write one: biased, sends everything, draws from the generator before and after."""

    def encode(self, x: Tensor, generators: Sequence[torch.Generator]) -> Encoded:
        torch.rand(3, generator=generators[0])
        sent = Identity().encode(x / 2, generators)
        return sent

    def decode(
        self, payload: Bytes, sizes: Sequence[int], like: Layout, generators: Sequence[torch.Generator]
    ) -> Tensor:
        return Identity().decode(payload, sizes, like, generators)

    def bits(self, d: int, dtype: torch.dtype = torch.float32) -> float:
        return Identity().bits(d, dtype)


def test_a_users_operator_composes_in_any_place(generators: Callable[..., Any], same_bits: Callable[..., bool]) -> None:
    """Its private draws do not shift the patterns of the parts around it; without theory it has no delta."""
    x = _x()[None].expand(3, -1).float()
    for parts in ([RandK(6), _Halved()], [_Halved(), RandK(6)], [Natural(), _Halved(), RandK(6)]):
        compressor = Compose(parts)
        encoded = compressor.encode(x, generators(3))
        decoded = compressor.decode(encoded.payload, encoded.sizes, Layout(D), generators(3))
        assert same_bits(decoded, encoded.value)
        assert compressor.delta(D) is None
        assert compressor.omega(D) is None
    assert not _Halved().unbiased


@pytest.mark.parametrize("parts", [[], ["natural"], [Natural]])
def test_what_is_no_list_of_compressors_is_refused(parts: list[Any]) -> None:
    """Nothing, names that were not built, and classes."""
    with pytest.raises(CompressorOptionError, match="compose"):
        Compose(parts)
