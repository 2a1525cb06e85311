"""An unbiased operator scaled into a contraction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from compressors.compressor import Compressor, Layout
from compressors.contraction import contraction
from compressors.identity import Identity
from compressors.lazy import Lazy
from compressors.natural import Natural
from compressors.qsgd import Qsgd
from compressors.randk import RandK
from compressors.switch import Switch
from compressors.topk import TopK

D = 24


@pytest.mark.parametrize("unbiased", [RandK(6), Lazy(0.2), Natural(), Qsgd(1)], ids=repr)
def test_it_contracts(unbiased: Compressor, draw: Callable[..., Any]) -> None:
    """delta = 1/(1 + omega) holds; with equality for Rand-K and Lazy, whose unscaled error exceeds |x|^2."""
    scaled = contraction(unbiased)
    omega = unbiased.omega(D)
    assert omega is not None
    delta = scaled.delta(D)
    assert delta == pytest.approx(1 / (1 + omega))
    assert scaled.omega(D) is None
    assert not scaled.unbiased
    x = torch.randn(D, generator=torch.Generator().manual_seed(1))
    sample = draw(scaled, x, 6000)
    assert sample.is_within(1 - delta)
    if isinstance(unbiased, RandK | Lazy):
        assert sample.equals(1 - delta)
        assert not draw(unbiased, x, 6000).is_within(1 - delta)


def test_the_bytes_are_the_same(generators: Callable[..., Any], same_bits: Callable[..., bool]) -> None:
    """Only the decoded value is scaled, on both sides alike."""
    x = torch.randn(3, D, generator=torch.Generator().manual_seed(1))
    plain, scaled = RandK(6).encode(x, generators(3)), contraction(RandK(6)).encode(x, generators(3))
    assert (plain.payload == scaled.payload).all()
    assert torch.allclose(scaled.value * 4, plain.value)
    decoded = contraction(RandK(6)).decode(scaled.payload, scaled.sizes, Layout(D), generators(3))
    assert same_bits(decoded, scaled.value)
    assert contraction(RandK(6)).bits(D) == RandK(6).bits(D)


def test_what_contracts_already_is_left_alone() -> None:
    """Biased operators, the identity, and a contraction itself."""
    mixed = Switch([TopK(3), Natural()])
    for compressor in (TopK(3), Identity(), mixed, contraction(Natural())):
        assert contraction(compressor) is compressor
