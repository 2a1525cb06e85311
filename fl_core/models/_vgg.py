"""torchvision's VGG networks with normalisation (Simonyan and Zisserman, ICLR 2015, 1409.1556) for small pictures.

The convolutions are torchvision's; five poolings take 32x32 pixels to one, so the head is one linear layer on 512
channels in place of the three for 224x224, which would have 120 million parameters. Poolings round sizes up: 28x28
goes to 14, 7, 4, 2, 1, as 32x32 to 16, 8, 4, 2, 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import nn

from fl_core.models._pictures import check_picture, initialise_convolution
from fl_core.models.norm import BatchStatistics, Norm, layer_of

Depth = Literal[11, 13, 16, 19]

_CONFIGURATIONS = {11: "A", 13: "B", 16: "D", 19: "E"}
"""Columns of the paper's table 1."""
_SMALLEST = 17
"""Pixels: with fewer, the last convolutions would see a single one."""


def of_depth(depth: Depth) -> Callable[..., nn.Module]:
    """The function `build` of the VGG with so many layers (as published: with the three of the head)."""

    def build(
        *, inputs: tuple[int, ...], outputs: int, norm: Norm = "batch", bn: BatchStatistics = "local"
    ) -> nn.Module:
        """`[m, channels, height, width]` to scores `[m, outputs]`.

        Args:
            norm: "batch", or "group": each sample by itself, in 32 groups of channels.
            bn: which statistics BatchNorm uses: those of the batch ("local"), in evaluations their average over
                steps and clients ("average": coordinates of x too), or none ("frozen").

        Raises:
            PlugInError: a sample is no picture of at least 17x17.
        """
        from torchvision.models import vgg  # seconds to import: only those who use it pay

        check_picture(inputs, f"vgg{depth}", _SMALLEST)
        layers = list(vgg.make_layers(vgg.cfgs[_CONFIGURATIONS[depth]], batch_norm=True))
        layers[0] = nn.Conv2d(inputs[0], layers[0].out_channels, 3, padding=1)
        normalised = layer_of(norm, bn)
        layers = [_fitted(layer, normalised) for layer in layers]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), _head(outputs))

    return build


def _fitted(layer: nn.Module, normalised: Callable[[int], nn.Module]) -> nn.Module:
    if isinstance(layer, nn.BatchNorm2d):
        return normalised(layer.num_features)
    if isinstance(layer, nn.MaxPool2d):
        return nn.MaxPool2d(2, ceil_mode=True)
    if isinstance(layer, nn.Conv2d):
        initialise_convolution(layer)
    return layer


def _head(outputs: int) -> nn.Linear:
    """As torchvision starts a VGG's linear layers."""
    head = nn.Linear(512, outputs)
    nn.init.normal_(head.weight, 0, 0.01)
    nn.init.zeros_(head.bias)
    return head
