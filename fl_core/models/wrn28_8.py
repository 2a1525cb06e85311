"""The wide residual network WRN-28-8 for small pictures: 23,354,842 parameters for 10 classes of 3 channels."""

from __future__ import annotations

from fl_core.models._wide_resnet import of_size

build = of_size(28, 8)
