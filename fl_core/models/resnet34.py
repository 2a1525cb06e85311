"""torchvision's ResNet-34 for small pictures: 21,282,122 parameters for 10 classes of 3 channels."""

from __future__ import annotations

from fl_core.models._resnet import of_depth

build = of_depth(34)
