"""torchvision's ResNets (He, Zhang, Ren, Sun, CVPR 2016, 1512.03385) for small pictures.

The stem is one 3x3 convolution of stride 1 and no pooling, as everyone has it for 32x32 pixels: torchvision's own stem
would leave 8x8 of them before the first block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import nn

from fl_core.models._pictures import check_picture, initialise_convolution
from fl_core.models.norm import BatchStatistics, Norm, layer_of

Depth = Literal[18, 34, 50, 101, 152]


def of_depth(depth: Depth) -> Callable[..., nn.Module]:
    """The function `build` of the ResNet with so many layers."""

    def build(
        *, inputs: tuple[int, ...], outputs: int, norm: Norm = "batch", bn: BatchStatistics = "local"
    ) -> nn.Module:
        """`[m, channels, height, width]` to scores `[m, outputs]`.

        Args:
            norm: "batch", or "group": each sample by itself, in 32 groups of channels.
            bn: which statistics BatchNorm uses: those of the batch ("local"), in evaluations their average over
                steps and clients ("average": coordinates of x too), or none ("frozen").

        Raises:
            PlugInError: a sample is no picture.
        """
        from torchvision import models  # seconds to import: only those who use it pay

        check_picture(inputs, f"resnet{depth}")
        model: nn.Module = getattr(models, f"resnet{depth}")(num_classes=outputs, norm_layer=layer_of(norm, bn))
        stem = nn.Conv2d(inputs[0], 64, 3, padding=1, bias=False)
        initialise_convolution(stem)  # as torchvision does its own
        model.conv1, model.maxpool = stem, nn.Identity()
        return model

    return build
