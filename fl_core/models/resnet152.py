"""torchvision's ResNet-152 for small pictures: 58,156,618 parameters for 10 classes of 3 channels."""

from __future__ import annotations

from fl_core.models._resnet import of_depth

build = of_depth(152)
