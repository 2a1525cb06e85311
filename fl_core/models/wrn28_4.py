"""The wide residual network WRN-28-4 for small pictures: 5,849,050 parameters for 10 classes of 3 channels."""

from __future__ import annotations

from fl_core.models._wide_resnet import of_size

build = of_size(28, 4)
