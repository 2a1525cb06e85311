"""A linear map of the flattened sample: regression with loss "mse", a classifier with loss "logistic"."""

from __future__ import annotations

import math
from typing import Literal

from torch import nn


def build(
    *,
    inputs: tuple[int, ...],
    outputs: int,
    bias: bool = False,
    init: Literal["zeros", "default"] = "zeros",
) -> nn.Module:
    """z = A x (+ b): `[m, ...]` to `[m, outputs]`. No bias by default, as papers on LIBSVM have it.

    `init` = "zeros" starts at x = 0, as these papers do; "default" is torch's.
    """
    layer = nn.Linear(math.prod(inputs), outputs, bias=bias)
    if init == "zeros":
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
    return nn.Sequential(nn.Flatten(), layer)
