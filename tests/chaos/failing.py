"""FedAvg with clients whose code raises, whose reply is NaN, or who take their process with them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from algorithms.fedavg import FedAvg
from fl_core import Client


@dataclass(frozen=True)
class Failing(FedAvg):
    """FedAvg, but for three clients.

    Args:
        raises, nan, kills: ids; -1: nobody.
    """

    raises: int = -1
    nan: int = -1
    kills: int = -1

    def local_gradient(self, client: Client, x: Tensor, s: Any) -> Tensor:
        g = client.gradient(x)
        if client.id == self.raises and client.round >= 2:
            raise ValueError("this client's data is broken")
        if client.id == self.kills:
            os._exit(11)  # as a segmentation fault ends a worker
        return torch.full_like(g, torch.nan) if client.id == self.nan else g
