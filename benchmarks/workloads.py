"""The four workloads: what a client has, what it does in a round, and how many clients there are."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

DATA = """
import torch
from fl_core import FederatedData

def load(*, clients: int, samples: int, shape: tuple[int, ...], classes: int = 0) -> FederatedData:
    source = torch.Generator().manual_seed(0)
    inputs = torch.randn(clients, samples, *shape, generator=source)
    if classes:
        targets = torch.randint(classes, (clients, samples), generator=source)
    else:
        targets = torch.randn(clients, samples, generator=source)
    return FederatedData(list(zip(inputs, targets)), classes=classes or None)
"""


@dataclass(frozen=True)
class Workload:
    """One of Q, L, C, R.

    Attributes:
        population: clients there are; per_round: those of a round. samples, shape, classes: of each client's data.
        steps, batch: local work; batch = samples means the full gradient.
    """

    name: str
    model: dict[str, Any]
    population: int
    per_round: int
    samples: int
    shape: tuple[int, ...]
    classes: int
    steps: int
    batch: int
    lr: float
    rounds: int
    quick_rounds: int
    extra: dict[str, Any] = field(default_factory=dict)

    def data(self) -> tuple[Tensor, Tensor]:
        """Inputs `[n, m, …]` and targets `[n, m]`, as the data plug-in makes them."""
        source = torch.Generator().manual_seed(0)
        inputs = torch.randn(self.population, self.samples, *self.shape, generator=source)
        if self.classes:
            return inputs, torch.randint(self.classes, (self.population, self.samples), generator=source)
        return inputs, torch.randn(self.population, self.samples, generator=source)

    def build(self) -> nn.Module:
        """The model, by the plug-in that the experiment names."""
        from importlib import import_module

        options = {key: value for key, value in self.model.items() if key not in ("name", "loss")}
        module = import_module(f"fl_core.models.{self.model['name']}")
        model: nn.Module = module.build(inputs=self.shape, outputs=self.classes or 1, **options)
        return model

    def write(self, folder: Path, rounds: int, **execution: Any) -> Path:
        """The experiment file, with its data plug-in beside it."""
        (folder / "bench_data.py").write_text(DATA, encoding="utf-8")
        gradient = "full" if self.batch >= self.samples else "minibatch"
        model = ", ".join(f"{key} = {_toml(value)}" for key, value in self.model.items())
        knobs = "\n".join(f"{key} = {_toml(value)}" for key, value in execution.items())
        text = f"""
name = "bench-{self.name}"
rounds = {rounds}
seed = 1
data = {{ name = "bench_data.py", samples = {self.samples}, shape = {list(self.shape)}, classes = {self.classes} }}
model = {{ {model} }}
clients = {{ total = {self.population}, per_round = {self.per_round} }}
algorithm = {{ name = "fedavg" }}
evaluate = {{ metrics = [] }}
checkpoint = {{ every = 1000000 }}
[local]
steps = {self.steps}
batch_size = {self.batch}
gradient = "{gradient}"
optimizer = {{ name = "sgd", lr = {self.lr} }}
[execution]
{knobs}
"""
        path = folder / f"{self.name}.toml"
        path.write_text(text, encoding="utf-8")
        return path


def _toml(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)


_LINEAR = {"name": "linear", "loss": "mse"}
_LOGISTIC = {"name": "logistic", "loss": "cross_entropy"}
_CNN = {"name": "cnn", "loss": "cross_entropy"}
_RESNET = {"name": "resnet18", "loss": "cross_entropy"}

WORKLOADS = {
    w.name: w
    for w in (
        Workload("Q100", _LINEAR, 1000, 100, 12, (20,), 0, 1, 12, 0.01, 2000, 1200),
        Workload("Q1000", _LINEAR, 10_000, 1000, 12, (20,), 0, 1, 12, 0.01, 1000, 600),
        Workload("L", _LOGISTIC, 200, 100, 60, (784,), 10, 3, 20, 0.05, 120, 40),
        Workload("C", _CNN, 100, 20, 60, (1, 28, 28), 10, 5, 10, 0.02, 8, 4),
        Workload("R", _RESNET, 20, 10, 32, (3, 32, 32), 10, 1, 32, 0.01, 4, 2),
    )
}
"""Q: least squares, one full-gradient step. L: logistic regression. C: the FedAvg CNN. R: ResNet18 with BatchNorm."""
