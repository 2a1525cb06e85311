"""A multilayer perceptron on the flattened sample, with ReLU between the layers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta
from torch import nn

from fl_core.options import Count


def build(
    *,
    inputs: tuple[int, ...],
    outputs: int,
    hidden: Sequence[Count] = (200,),
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0,
) -> nn.Module:
    """`[m, ...]` to `[m, outputs]` through layers of the widths in `hidden`, each followed by `dropout`."""
    layers: list[nn.Module] = [nn.Flatten()]
    widths = [math.prod(inputs), *hidden]
    for width, following in itertools.pairwise(widths):
        layers += [nn.Linear(width, following), nn.ReLU()]
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))
