"""Wide residual networks (Zagoruyko and Komodakis, BMVC 2016, 1605.07146, table 1) for small pictures.

WRN-depth-k: a 3x3 convolution to 16 channels, three groups of (depth - 4)/6 blocks with 16k, 32k and 64k channels, of
which the second and third halve the picture, then normalisation, ReLU, the mean over the picture, and a linear layer.
A block is B(3, 3) with normalisation and ReLU before each convolution (He et al. 2016, 1603.05027).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor, nn
from torch.nn import functional

from fl_core.models._pictures import check_picture, initialise_convolution
from fl_core.models.norm import BatchStatistics, Norm, layer_of

Normalised: TypeAlias = Callable[[int], nn.Module]


def of_size(depth: int, k: int) -> Callable[..., nn.Module]:
    """The function `build` of WRN-depth-k; depth is 4 more than a multiple of 6."""

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
        check_picture(inputs, f"wrn{depth}-{k}")
        normalised = layer_of(norm, bn)
        layers: list[nn.Module] = [nn.Conv2d(inputs[0], 16, 3, padding=1, bias=False)]
        channels = 16
        for group, width in enumerate((16 * k, 32 * k, 64 * k)):
            for block in range((depth - 4) // 6):
                stride = 2 if group > 0 and block == 0 else 1
                layers.append(_Block(channels, width, stride, normalised))
                channels = width
        head = nn.Linear(channels, outputs)
        nn.init.zeros_(head.bias)
        layers += [normalised(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head]
        model = nn.Sequential(*layers)
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                initialise_convolution(layer)
        return model

    return build


class _Block(nn.Module):
    """x + conv(relu(norm(conv(relu(norm(x)))))); where the shape changes, x is relu(norm(x)) through a 1x1 one."""

    def __init__(self, channels: int, width: int, stride: int, normalised: Normalised) -> None:
        super().__init__()
        self.norm1 = normalised(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.norm2 = normalised(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if channels != width or stride != 1:
            self.shortcut = nn.Conv2d(channels, width, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[m, channels, height, width]` to `[m, width, height/stride, width/stride]`."""
        first = functional.relu(self.norm1(x))
        branch: Tensor = self.conv2(functional.relu(self.norm2(self.conv1(first))))
        return branch + (x if self.shortcut is None else self.shortcut(first))
