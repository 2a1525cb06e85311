"""torchvision's ResNet-101 for small pictures: 42,512,970 parameters for 10 classes of 3 channels."""

from __future__ import annotations

from fl_core.models._resnet import of_depth

build = of_depth(101)
