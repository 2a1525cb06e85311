"""SCAFFOLD whose clients take a while, as those of a large model do: so that something can happen in mid-round."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from algorithms.scaffold import Scaffold
from fl_core import Client


@dataclass(frozen=True)
class Busy(Scaffold):
    """SCAFFOLD, number for number.

    Args:
        step_s: seconds that a local step takes at least. The thread sleeps: four workers share two cores here.
    """

    step_s: float = 0.002

    def local_gradient(self, client: Client, x: Tensor, s: Any) -> Tensor:
        time.sleep(self.step_s)
        if marks := os.environ.get("FLSPAN_TEST_MARKS"):  # so that a test sees how far a round is
            Path(marks, f"{os.getpid()}-{client.round}-{client.id}").touch()
        return super().local_gradient(client, x, s)
