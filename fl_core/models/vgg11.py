"""torchvision's VGG-11 for small pictures: 9,231,114 parameters for 10 classes of 3 channels."""

from __future__ import annotations

from fl_core.models._vgg import of_depth

build = of_depth(11)
