"""Every client gets an equal number (to within one) of samples drawn uniformly without replacement."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fl_core.partitions import Parts, check_enough


def split(targets: Tensor, clients: int, generator: np.random.Generator) -> Parts:
    """A random permutation cut into `clients` equal pieces."""
    check_enough(len(targets), clients)
    return Parts.even(generator.permutation(len(targets)), clients).ascending()
