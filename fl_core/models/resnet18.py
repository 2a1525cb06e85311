"""torchvision's ResNet-18 (He, Zhang, Ren, Sun, CVPR 2016, 1512.03385) for small pictures: 11,173,962 parameters for
10 classes of 3 channels.

The stem is one 3x3 convolution of stride 1 and no pooling, as everyone has it for 32x32 pixels: torchvision's own stem
would leave 8x8 of them before the first block.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import nn

from fl_core.errors import PlugInError

_GROUPS = 32
"""Wu and He, ECCV 2018, 1803.08494."""


def build(*, inputs: tuple[int, ...], outputs: int, norm: Literal["batch", "group"] = "batch") -> nn.Module:
    """`[m, channels, height, width]` to scores `[m, outputs]`.

    Args:
        norm: "batch" normalises by the batch at hand, in an evaluation too: there are no running statistics, which
            clients would have to share (and f_i is no sum over samples). "group" normalises each sample by itself, in
            32 groups of channels. Both have the same parameters.

    Raises:
        PlugInError: a sample is no picture.
    """
    from torchvision.models import resnet18  # seconds to import: only those who use it pay

    if len(inputs) != 3:
        shape = "x".join(map(str, inputs))
        raise PlugInError(f'the model "resnet18" needs pictures (channels, height, width), not {shape}')
    layer = partial(nn.GroupNorm, _GROUPS) if norm == "group" else partial(nn.BatchNorm2d, track_running_stats=False)
    model: nn.Module = resnet18(num_classes=outputs, norm_layer=layer)
    stem = nn.Conv2d(inputs[0], 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does its own
    model.conv1, model.maxpool = stem, nn.Identity()
    return model
