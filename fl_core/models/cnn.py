"""The CNN of the FedAvg paper (McMahan et al. 2017, 1602.05629, section 3): 1,663,370 parameters on 28x28x1.

Two 5x5 convolutions (32 and 64 channels, each followed by 2x2 max pooling), 512 units, ReLU, and the output
layer. The number in the paper needs convolutions that keep the size (padding 2), so that 7x7x64 reaches the
dense layer. Narrower ones are faster: channels = [16, 32], hidden = 128 has 215,370.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import nn

from fl_core.errors import PlugInError
from fl_core.options import Count


def build(
    *,
    inputs: tuple[int, ...],
    outputs: int,
    channels: tuple[Count, Count] = (32, 64),
    hidden: Count = 512,
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0,
) -> nn.Module:
    """`[m, channels, height, width]` to scores `[m, outputs]`.

    Args:
        channels: of the first and the second convolution.
        hidden: units of the dense layer.
        dropout: before the output layer.

    Raises:
        PlugInError: a sample is no picture of at least 4x4.
    """
    if len(inputs) != 3 or min(inputs[1:]) < 4:
        shape = "x".join(map(str, inputs))
        raise PlugInError(f'the model "cnn" needs pictures (channels, height, width) of at least 4x4, not {shape}')
    (first, second), (colours, height, width) = channels, inputs
    last = [nn.Dropout(dropout)] if dropout > 0 else []
    return nn.Sequential(
        nn.Conv2d(colours, first, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * (height // 4) * (width // 4), hidden),
        nn.ReLU(),
        *last,
        nn.Linear(hidden, outputs),
    )
