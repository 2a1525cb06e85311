"""The bare loop: the best plain PyTorch loop over clients one would write by hand, in a process of its own.

    python -m benchmarks.bare L         for each number of seconds on standard input, client updates a second, as JSON

One model, whose parameters and gradients are views of two flat buffers; a client is a copy of x into one of them, its
steps, and one addition to a running sum. No DataLoader, no torch.optim, no state_dict, one torch thread.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

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

    def round(self, clients: int) -> None:
        """One round: the participants' local steps, and the mean of what they moved."""
        w, total = self.workload, torch.zeros_like(self.x)
        for i in torch.randperm(w.population, generator=self.source)[:clients].tolist():
            self.flat.copy_(self.x)
            self.client(self.inputs[i], self.targets[i])
            total.add_(self.flat)
        self.x = total.div_(clients)

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


def rate(loop: BareLoop, seconds: float) -> float:
    """Client updates a second. Rounds are smaller where a whole one would take longer than a quarter of the time."""
    started = time.perf_counter()
    loop.round(1)
    one_s = time.perf_counter() - started
    clients = max(1, min(loop.workload.per_round, int(seconds / 4 / one_s)))
    started, updates = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        loop.round(clients)
        updates += clients
    return updates / (time.perf_counter() - started)


class BareProcess:
    """A process that waits between its measurements, so that only the first pays for its start."""

    def __init__(self, workload: Workload, folder: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.bare", workload.name]
        self._process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.peak_bytes = 0

    def __enter__(self) -> BareProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def rate(self, seconds: float) -> float:
        """Client updates a second, now."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{seconds}\n")
        found = json.loads(self._process.stdout.readline())
        self.peak_bytes = found["peak_bytes"]
        return float(found["updates_per_s"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    bare = BareLoop(WORKLOADS[sys.argv[1]])
    bare.round(2)
    for line in sys.stdin:
        found = rate(bare, float(line))
        peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({"updates_per_s": found, "peak_bytes": peak_bytes}), flush=True)
