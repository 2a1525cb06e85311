"""The oracle of one pool slot: value and gradient of a batch's loss at a flat point x `[d]`.

It owns one replica of the model whose parameters are views into one flat buffer; asking at x is a copy into that
buffer, one forward and one backward. A replica belongs to one thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from fl_core.regularizers import NoRegularizer

Loss = Callable[[Tensor, Tensor], Tensor]


class Regularizer(Protocol):
    """R(x), added to every f_i. Works on `[d]` and on `[G, d]` (one value a row)."""

    def value(self, x: Tensor) -> Tensor:
        """R(x)."""
        ...

    def gradient(self, x: Tensor) -> Tensor:
        """∇R(x), shaped as x."""
        ...


class Oracle:
    """Value and gradient of (1/m) Σ loss(model(x; a_j), b_j) + R(x) on one replica of the model.

    Args:
        model: taken over by the oracle; its parameters become views of one flat buffer.
        loss: mean over a batch, from outputs and targets.
        regularizer: R, or None.

    Attributes:
        parameters: those that are trained, in the order in which `flat` holds them.
        initial_buffers: what BatchNorm's statistics and the like start from.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        regularizer: Regularizer | None,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        self.model = model.to(device=device, dtype=dtype)
        self.loss_of = loss
        self.regularizer = None if isinstance(regularizer, NoRegularizer) else regularizer
        self.parameters: list[nn.Parameter] = [p for p in self.model.parameters() if p.requires_grad]
        self.d = sum(p.numel() for p in self.parameters)
        self.flat = flatten([p.detach() for p in self.parameters], dtype, device)
        self.initial_buffers = [buffer.detach().clone() for buffer in self.model.buffers()]
        offset = 0
        for p in self.parameters:
            p.data = self.flat[offset : offset + p.numel()].view(p.shape)
            offset += p.numel()

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' type."""
        return self.flat.dtype

    @property
    def device(self) -> torch.device:
        """Where the replica lives."""
        return self.flat.device

    def reset_buffers(self) -> None:
        """Put BatchNorm's statistics and the like back to their start: no client sees what another has left."""
        for buffer, start in zip(self.model.buffers(), self.initial_buffers, strict=True):
            buffer.copy_(start)

    def gradient(self, x: Tensor, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """(∇, value) at x `[d]` of the batch's mean loss plus R, in training mode. The gradient is fresh memory."""
        g, value = self._differentiated(x, inputs, targets, train=True)
        if self.regularizer is not None:
            g += self.regularizer.gradient(x)
            value = value + self.regularizer.value(x)
        return g, value

    def value(self, x: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """The batch's mean loss at x plus R, in training mode, without a gradient."""
        self._set(x, train=True)
        with torch.no_grad():
            value = self.loss_of(self.model(inputs), targets)
            return value if self.regularizer is None else value + self.regularizer.value(x)

    def outputs(self, x: Tensor, inputs: Tensor) -> Tensor:
        """The model's outputs at x in evaluation mode, without a gradient."""
        self._set(x, train=False)
        with torch.no_grad():
            outputs: Tensor = self.model(inputs)
            return outputs

    def evaluated_gradient(self, x: Tensor, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """(∇, value) of the batch's mean loss at x in evaluation mode, without R."""
        return self._differentiated(x, inputs, targets, train=False)

    def _differentiated(self, x: Tensor, inputs: Tensor, targets: Tensor, train: bool) -> tuple[Tensor, Tensor]:
        self._set(x, train)
        with torch.enable_grad():  # a user may ask for a gradient where she has turned her own autograd off
            loss = self.loss_of(self.model(inputs), targets)
            # A parameter the loss does not reach has a zero gradient.
            grads = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        return flatten(grads, self.dtype, self.device), loss.detach()

    def _set(self, x: Tensor, train: bool) -> None:
        with torch.no_grad():
            self.flat.copy_(x)
        if self.model.training is not train:
            self.model.train(train)


def flatten(tensors: Sequence[Tensor], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """One flat tensor `[d]` of all elements in order, in memory of its own."""
    if not tensors:
        return torch.zeros(0, dtype=dtype, device=device)
    return torch.cat([t.reshape(-1) for t in tensors])
