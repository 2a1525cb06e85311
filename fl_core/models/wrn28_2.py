"""The wide residual network WRN-28-2 for small pictures: 1,467,610 parameters for 10 classes of 3 channels."""

from __future__ import annotations

from fl_core.models._wide_resnet import of_size

build = of_size(28, 2)
