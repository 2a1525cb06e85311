"""The gradient of a ResNet18, 11.2 million parameters, within a tenth of a second of one core."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from compressors.build import build
from compressors.compressor import Layout

D = 11_173_962  # parameters of ResNet18 for CIFAR10
LIMIT_S = 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("identity", {}),
        ("lazy", {"p": 0.999999}),
        ("randk", {"k": "1%"}),
        ("randk", {"k": "10%"}),
        ("topk", {"k": "1%"}),
        ("topk", {"k": "10%"}),
        ("natural", {}),
        ("std-dithering", {"s": 4, "norm": "inf"}),
        ("std-dithering", {"s": 4, "norm": 1}),
        ("natural-dithering", {"s": 8}),
        ("qsgd", {"s": 4}),
        ("qsgd", {"s": 127}),
        ("terngrad", {}),
        ("compose", {"of": ["natural", {"name": "randk", "k": "1%"}]}),
        ("switch", {"of": ["natural", {"name": "randk", "k": "1%"}]}),
    ],
    ids=lambda value: str(value),
)
def test_eleven_million_in_a_tenth_of_a_second(name: str, options: dict[str, Any]) -> None:
    """CPU time of this thread to encode and to decode, the best of up to thirty: the other cores share the memory."""
    compressor = build(name, options)
    x = torch.randn(1, D, generator=torch.Generator().manual_seed(1))
    sending: list[float] = []
    receiving: list[float] = []
    for attempt in range(30):
        if sending and min(sending) <= LIMIT_S and min(receiving) <= LIMIT_S:
            break
        generator = torch.Generator().manual_seed(attempt)
        began = time.thread_time()
        encoded = compressor.encode(x, [generator])
        sending.append(time.thread_time() - began)
        generator.manual_seed(attempt)
        began = time.thread_time()
        compressor.decode(encoded.payload, encoded.sizes, Layout(D), [generator])
        receiving.append(time.thread_time() - began)
    assert min(sending) <= LIMIT_S
    assert min(receiving) <= LIMIT_S
