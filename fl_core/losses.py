"""Losses by name: the mean over a batch of what one sample costs, and what targets each of them needs.

`outputs` is what the model gives, `[m, ...]`; one output a sample may be `[m]` or `[m, 1]`. The functions are
pure torch and hold under torch.func transforms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from fl_core.errors import ExperimentError

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """(1/m) Σ_j −log softmax(z_j)[b_j]: outputs `[m, classes]`, labels `[m]` int64."""
    return functional.cross_entropy(outputs, targets)


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """(1/m) Σ_j (z_j − b_j)²: outputs and targets `[m]` or `[m, 1]`; for `[m, k]`, (1/m) Σ_j ‖z_j − b_j‖²."""
    return (_flat(outputs) - _flat(targets)).square().sum() / len(outputs)


def logistic(outputs: Tensor, targets: Tensor) -> Tensor:
    """(1/m) Σ_j log(1 + exp(−b_j z_j)): outputs `[m]` or `[m, 1]`, labels −1 and +1.

    −logsigmoid is exact for margins of any size; softplus turns linear at 20, which is wrong in the 9th
    digit.
    """
    return -functional.logsigmoid(_flat(targets) * _flat(outputs)).mean()


def _flat(values: Tensor) -> Tensor:
    """`[m, 1]` as `[m]`: else `[m] - [m, 1]` would silently be `[m, m]`."""
    return values.squeeze(-1) if values.dim() > 1 and values.shape[-1] == 1 else values


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "mse": mse, "logistic": logistic}


def loss(name: str) -> Loss:
    """The loss of that name, as [model] loss has it."""
    return LOSSES[name]


def fitted_targets(name: str, targets: Tensor, dtype: torch.dtype, classes: int | None = None) -> Tensor:
    """The targets as the loss needs them: int64 labels for cross_entropy, else numbers of the model's type.

    Args:
        name: of the loss.
        targets: `[m]` or `[m, k]`, as the data set has them.
        dtype: the model's.
        classes: the number of labels, if the data set says it.

    Raises:
        ExperimentError: the loss cannot use such targets.
    """
    if name == "cross_entropy":
        return _labels(targets, classes)
    numbers = targets.to(dtype)
    if name == "logistic" and not bool(((numbers == 1) | (numbers == -1)).all()):
        raise ExperimentError(f'"logistic" needs labels -1 and +1, the data has {_values(targets)}', path="model.loss")
    if not bool(torch.isfinite(numbers).all()):
        raise ExperimentError(f'"{name}" needs finite targets, the data has {_values(targets)}', path="model.loss")
    return numbers


def _labels(targets: Tensor, classes: int | None) -> Tensor:
    labels = targets.to(torch.int64)
    upper = classes if classes is not None else int(labels.max()) + 1
    if bool((labels != targets).any()) or int(labels.min()) < 0 or int(labels.max()) >= upper:
        wanted = f"0 to {upper - 1}" if classes is not None else "0, 1, 2, …"
        raise ExperimentError(
            f'"cross_entropy" needs labels {wanted}, the data has {_values(targets)}', path="model.loss"
        )
    return labels


def _values(targets: Tensor) -> str:
    """The first few distinct values, for the text of an error."""
    values = torch.unique(targets.detach().cpu())
    text = ", ".join(f"{value:g}" for value in values[:5].tolist())
    return text if len(values) <= 5 else f"{text}, … ({len(values)} different values)"
