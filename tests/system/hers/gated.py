"""FedAvg whose clients wait at a gate: while a file is there, so that a test can act in the middle of a round."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from algorithms.fedavg import FedAvg
from fl_core import Client


@dataclass(frozen=True)
class Gated(FedAvg):
    """FedAvg, number for number."""

    gate: str = ""

    def local_gradient(self, client: Client, x: Tensor, s: Any) -> Tensor:
        pass_gate(self.gate, client)
        return client.gradient(x)


def pass_gate(name: str, client: Client) -> None:
    """Wait while `<name>-<round>` lies in the folder of gates; say who waits there."""
    gate = Path(os.environ.get("FLSPAN_TEST_GATES", "/nonexistent"), f"{name}-{client.round}")
    if gate.exists():
        gate.with_name(f"{gate.name}.held-by-{os.getpid()}.{client.id}").touch()
        while gate.exists():
            time.sleep(0.01)
