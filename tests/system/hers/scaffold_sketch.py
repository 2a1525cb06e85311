# mypy: ignore-errors
"""SCAFFOLD as design.md sketches it, nested classes without their base and all; the gate is that of gated.py."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from algorithms.fedavg import FedAvg
from fl_core import zeros


@dataclass(frozen=True)
class Scaffold(FedAvg):
    """FedAvg with every local gradient shifted by c - c_i (Karimireddy et al., ICML 2020, Algorithm 1, option II)."""

    gate: str = ""

    class ServerState:
        c: Tensor = zeros()  # [d]

    class Memory:
        c_i: Tensor = zeros()  # [d]

    class Broadcast:
        c: Tensor

    class Reply(FedAvg.Reply):
        dc: Tensor

    def local_gradient(self, client, x, s):
        pass_gate(self.gate, client)
        return client.gradient(x) - client.memory.c_i + s.c

    def local_state(self, client, x0, x, s):
        dc = (x0 - x) / (client.steps * client.lr) - s.c
        client.memory.c_i = client.memory.c_i + dc
        return self.Reply(delta=client.compress(x - x0), dc=dc)

    def server_global_state(self, server, replies, g):
        return self.ServerState(c=server.state.c + replies.sum("dc") / server.n)


def pass_gate(name, client):
    """Wait while the gate is closed."""
    gate = Path(os.environ.get("FLSPAN_TEST_GATES", "/nonexistent"), f"{name}-{client.round}")
    if gate.exists():
        gate.with_name(f"{gate.name}.held-by-{os.getpid()}.{client.id}").touch()
        while gate.exists():
            time.sleep(0.01)
