"""torchvision's ResNet-18 for small pictures: 11,173,962 parameters for 10 classes of 3 channels."""

from __future__ import annotations

from fl_core.models._resnet import of_depth

build = of_depth(18)
