"""Payload lengths against the sheet's bit counts, to the byte where it is a whole number of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from compressors.build import build

W = {torch.float32: 32, torch.float64: 64, torch.float16: 16, torch.bfloat16: 16}


def _size(name: str, options: dict[str, Any], d: int, dtype: torch.dtype, generator: torch.Generator) -> int:
    x = torch.linspace(-1, 2, d).double().exp().to(dtype)[None]
    return build(name, options).encode(x, [generator]).sizes[0]


@pytest.mark.parametrize("dtype", list(W), ids=str)
def test_bits_are_those_of_the_sheet(dtype: torch.dtype, generators: Callable[..., Any]) -> None:
    """The formula, `bits(d)` and the payload agree for every operator of the sheet."""
    d, w = 4096, W[dtype]
    norm = max(w, 32)
    natural = {32: 9, 64: 12}.get(w, 6 if dtype is torch.float16 else 9)
    sheet: list[tuple[str, dict[str, Any], float]] = [
        ("identity", {}, w * d),
        ("lazy", {"p": 1}, w * d),
        ("randk", {"k": 100}, w * 100),
        ("natural", {}, natural * d),
        ("std-dithering", {"s": 1}, norm + 2 * d),
        ("std-dithering", {"s": 4, "norm": "inf"}, norm + 4 * d),
        ("qsgd", {"s": 7}, norm + 4 * d),
        ("qsgd", {"s": 8}, norm + 5 * d),
        ("natural-dithering", {"s": 8}, norm + 5 * d),
        ("terngrad", {}, norm + 1.6 * d),
        ("topk", {"k": 100}, 100 * (w + 12)),
        ("topk", {"k": 1000}, 1000 * w + d),
        ("topk", {"k": d}, w * d),
        ("rankk", {"k": 3}, w * 3 * (64 + 64)),
        ("rankk", {"k": 32}, w * d),
        ("compose", {"of": [{"name": "natural"}, {"name": "randk", "k": 100}]}, natural * 100),
        ("compose", {"of": [{"name": "randk", "k": 100}, {"name": "natural"}]}, natural * 100),
        ("compose", {"of": [{"name": "natural"}, {"name": "topk", "k": 100}]}, (natural + 12) * 100),
        ("compose", {"of": [{"name": "topk", "k": 100}, {"name": "natural"}]}, (natural + 12) * 100),
        ("compose", {"of": [{"name": "qsgd", "s": 7}, {"name": "randk", "k": 100}]}, norm + 4 * 100),
        ("compose", {"of": [{"name": "natural"}, {"name": "rankk", "k": 1}]}, natural * d),
        ("compose", {"of": [{"name": "rankk", "k": 1}, {"name": "natural"}]}, w * 128),
    ]
    for name, options, bits in sheet:
        assert build(name, options).bits(d, dtype) == pytest.approx(bits), (name, options)
        size = _size(name, options, d, dtype, generators(1)[0])
        assert 0 <= 8 * size - bits < 32, (name, options)


def test_an_unsent_lazy_vector_is_empty(generators: Callable[..., Any]) -> None:
    """The coin is drawn by both sides: nothing at all travels, and bits are p W d on average."""
    encoded = build("lazy", {"p": 0.25}).encode(torch.ones(4000, 10), generators(4000))
    assert set(encoded.sizes) == {0, 40}
    assert abs(sum(encoded.sizes) / 4000 - 10) < 6 * 40 * math.sqrt(0.25 * 0.75 / 4000)


def test_prime_lengths_go_dense_through_rankk(generators: Callable[..., Any]) -> None:
    """A prime d is 1 x d, where factors are longer than x: x itself travels, and delta is 1."""
    compressor = build("rankk", {"k": 1})
    x = torch.randn(1, 101, generator=generators(1)[0])
    encoded = compressor.encode(x, generators(1))
    assert torch.equal(encoded.value, x)
    assert encoded.sizes == (404,)
    assert compressor.delta(101) == 1.0


def test_k_of_all_is_the_identity_bit_for_bit(generators: Callable[..., Any], same_bits: Callable[..., bool]) -> None:
    """K >= d, as a count or as 100 %, sends x as it is: zeros keep their sign, subnormals survive."""
    x = torch.tensor([[0.0, -0.0, 1e-42, 3.0, -1.5]])
    for name in ("randk", "topk", "rankk"):
        for k in (5, 7, "100%"):
            encoded = build(name, {"k": k}).encode(x, generators(1))
            assert same_bits(encoded.value, x)
            assert encoded.payload.tobytes() == x.numpy().tobytes()
