"""The bare loop: the best plain PyTorch loop over clients one would write by hand, in a process of its own.

    python -m benchmarks.bare L 5       client updates a second, over five seconds, as JSON

One model, whose parameters and gradients are views of two flat buffers; a client is a copy of x into one of them, its
steps, and one addition to a running sum. No DataLoader, no torch.optim, no state_dict, one torch thread.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.workloads import WORKLOADS, Workload


def _mse(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.mse_loss(outputs.squeeze(-1), targets)


class BareLoop:
    """FedAvg on one workload, by hand."""

    def __init__(self, workload: Workload) -> None:
        torch.manual_seed(0)
        self.workload = workload
        self.model = workload.build().train()
        parameters = list(self.model.parameters())
        self.flat = torch.cat([p.detach().reshape(-1) for p in parameters])
        self.grad = torch.zeros_like(self.flat)
        offset = 0
        for p in parameters:
            p.data = self.flat[offset : offset + p.numel()].view(p.shape)
            p.grad = self.grad[offset : offset + p.numel()].view(p.shape)
            offset += p.numel()
        self.inputs, self.targets = workload.data()
        self.loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy if workload.classes else _mse
        self.source = torch.Generator().manual_seed(1)
        self.x = self.flat.clone()

    def round(self) -> None:
        """One round: the participants' local steps, and the mean of what they moved."""
        w, total = self.workload, torch.zeros_like(self.x)
        for i in torch.randperm(w.population, generator=self.source)[: w.per_round].tolist():
            self.flat.copy_(self.x)
            self.client(self.inputs[i], self.targets[i])
            total.add_(self.flat)
        self.x = total.div_(w.per_round)

    def client(self, inputs: Tensor, targets: Tensor) -> None:
        """The local steps of one client, from where `flat` is."""
        w = self.workload
        order = None if w.batch >= w.samples else torch.randperm(w.samples, generator=self.source)
        for k in range(w.steps):
            if order is not None:
                chosen = order[k * w.batch % w.samples :][: w.batch]
                loss = self.loss(self.model(inputs[chosen]), targets[chosen])
            else:
                loss = self.loss(self.model(inputs), targets)
            self.grad.zero_()
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
            self.flat.add_(self.grad, alpha=-w.lr)


def rate(workload: Workload, seconds: float) -> float:
    """Client updates a second."""
    loop = BareLoop(workload)
    loop.round()
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() - started < seconds or rounds == 0:
        loop.round()
        rounds += 1
    return rounds * workload.per_round / (time.perf_counter() - started)


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = rate(WORKLOADS[sys.argv[1]], float(sys.argv[2]))
    peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"updates_per_s": found, "peak_bytes": peak_bytes}))
