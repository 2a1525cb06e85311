"""Logistic regression on the flattened sample: softmax regression with loss "cross_entropy"."""

from __future__ import annotations

from typing import Literal

from torch import nn

from fl_core.models import linear


def build(
    *,
    inputs: tuple[int, ...],
    outputs: int,
    bias: bool = True,
    init: Literal["zeros", "default"] = "default",
) -> nn.Module:
    """z = A x + b: `[m, ...]` to scores `[m, outputs]`."""
    return linear.build(inputs=inputs, outputs=outputs, bias=bias, init=init)
