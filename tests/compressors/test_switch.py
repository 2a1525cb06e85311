"""Switching: who is chosen how often, and what follows for theory and bytes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from compressors.compressor import CompressorOptionError
from compressors.identity import Identity
from compressors.lazy import Lazy
from compressors.natural import Natural
from compressors.randk import RandK
from compressors.switch import Switch
from compressors.topk import TopK

D = 24


def test_each_is_chosen_by_its_weight(generators: Callable[..., Any]) -> None:
    """Weights need not sum to 1: 2 : 6 is a quarter and three quarters; payload lengths show who was chosen."""
    sizes = Switch([Identity(), RandK(1)], [2, 6]).encode(torch.ones(4000, D), generators(4000)).sizes
    share = sizes.count(4 * D) / 4000
    assert sizes.count(4) == 4000 - sizes.count(4 * D)
    assert abs(share - 0.25) < 6 * math.sqrt(0.25 * 0.75 / 4000)


def test_theory_is_the_weighted_mean() -> None:
    """All unbiased: omega; all contractive: delta; mixed: neither; the identity is both."""
    unbiased = Switch([Natural(), RandK(6)], [1, 3])
    assert unbiased.omega(D) == pytest.approx(0.25 * 0.125 + 0.75 * 3)
    assert unbiased.delta(D) is None
    assert unbiased.unbiased
    contractive = Switch([TopK(6), Identity()], [3, 1])
    assert contractive.delta(D) == pytest.approx(0.75 * 0.25 + 0.25)
    assert contractive.omega(D) is None
    mixed = Switch([TopK(6), Lazy(0.5)])
    assert mixed.omega(D) is None
    assert mixed.delta(D) is None
    assert not mixed.unbiased
    assert mixed.bits(D) == pytest.approx(0.5 * 6 * (32 + 4) + 0.5 * 0.5 * 32 * D, abs=13)


@pytest.mark.parametrize(
    "weights", [[1], [1, 2, 3], [1, 0], [1, -1], [1, math.nan], [1, math.inf], [True, 1], ["1", 1]]
)
def test_wrong_weights_are_refused(weights: list[Any]) -> None:
    """As many as compressors, each a positive number."""
    with pytest.raises(CompressorOptionError, match="switch: "):
        Switch([Natural(), Identity()], weights)


def test_nothing_to_switch_between_is_refused() -> None:
    """An empty list, and names that were not built."""
    for parts in ([], ["natural"]):
        with pytest.raises(CompressorOptionError, match="switch: `of`"):
            Switch(parts)
