"""The oracle of one pool slot: value and gradient of a batch's loss at a flat point x `[d]`.

It owns one replica of the model whose parameters are views into one flat buffer; asking at x is a copy into that
buffer, one forward and one backward. (`descend` needs none: there the parameters are views of x itself.) A replica
belongs to one thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fl_core.errors import PlugInError
from fl_core.regularizers import NoRegularizer

# What torch.autograd.grad calls in the end. Its own preparations take 30 µs a call, a third of a small model's step.
_ENGINE: Any = getattr(torch.autograd.Variable, "_execution_engine", None)

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
        autocast: the type in which torch.autocast computes training's forward; the loss is in the model's own type.
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
        autocast: torch.dtype | None = None,
    ) -> None:
        self.autocast = autocast
        self.model = model.to(device=device, dtype=dtype)
        self.loss_of = loss
        self.regularizer = None if isinstance(regularizer, NoRegularizer) else regularizer
        self.parameters: list[nn.Parameter] = [p for p in self.model.parameters() if p.requires_grad]
        self.d = sum(p.numel() for p in self.parameters)
        self._flat: Tensor | None = flatten([p.detach() for p in self.parameters], dtype, device)
        self.initial_buffers = [buffer.detach().clone() for buffer in self.model.buffers()]
        self._modules = tuple(self.model.modules())
        self._inputs = tuple(self.parameters)
        self._one = torch.ones((), dtype=dtype, device=device)
        self._pieces: list[Tensor] = []
        self._bind(self._flat)
        self._writes: bool | None = None
        self._spares_flat = True

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' type."""
        return self._one.dtype

    @property
    def device(self) -> torch.device:
        """Where the replica lives."""
        return self._one.device

    @property
    def flat(self) -> Tensor:
        """The oracle's own memory `[d]`: the point of the last question; after `descend`, anything."""
        if self._flat is None:  # it was let go, and is needed after all: from now on it stays
            self._flat = torch.empty(self.d, dtype=self.dtype, device=self.device)
            self._spares_flat = False
        return self._flat

    def reset_buffers(self) -> None:
        """Put BatchNorm's statistics and the like back to their start: no client sees what another has left."""
        if not self.initial_buffers and not any(module._buffers for module in self._modules):
            return
        for buffer, start in zip(self.model.buffers(), self.initial_buffers, strict=True):
            buffer.copy_(start)

    def gradient(self, x: Tensor, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """(∇, value) at x `[d]` of the batch's mean loss plus R, in training mode. The gradient is fresh memory."""
        g, value = self._differentiated(x, inputs, targets, train=True)
        if self.regularizer is not None:
            g += self.regularizer.gradient(x)
            value = value + self.regularizer.value(x)
        return g, value

    def can_descend(self, x: Tensor) -> bool:
        """Whether `descend` may be asked at x. From the first gradient on, it knows whether the model lets it."""
        return self._writes is False and self.regularizer is None and x.is_contiguous() and x.dtype == self.dtype

    def descend(self, x: Tensor, inputs: Tensor, targets: Tensor, lr: float) -> tuple[Sequence[Tensor], Tensor]:
        """One step x -= lr ∇ in x's own memory: what `gradient` and an addition give, with 4 passes over `[d]` less.

        Returns:
            ∇ in one piece a parameter, and the batch's mean loss at the old x.

        Raises:
            PlugInError: the model has written into its parameters, which here are x.
        """
        if self._bound is not x:
            self._bind(x)
        if self._spares_flat:  # a slot of a large model holds one x, not two
            self._flat = None
        self._train(True)
        before = self._versions()
        with torch.enable_grad():
            loss = self._loss(inputs, targets)
            grads = self._gradients(loss)
        if self._versions() != before:
            raise PlugInError("the model's forward() has changed its own parameters, and not from its first call on")
        with torch.no_grad():
            for piece, g in zip(self._pieces, grads, strict=True):
                piece.add_(g.contiguous(), alpha=-lr)  # a strided addition may round otherwise
        return grads, loss.detach()

    def value(self, x: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """The batch's mean loss at x plus R, in training mode, without a gradient."""
        self._set(x, train=True)
        with torch.no_grad():
            value = self._loss(inputs, targets)
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
        before = self._versions() if self._writes is None else 0
        with torch.enable_grad():  # a user may ask for a gradient where she has turned her own autograd off
            loss = self._loss(inputs, targets) if train else self.loss_of(self.model(inputs), targets)
            grads = self._gradients(loss)
        if self._writes is None:
            self._writes = self._versions() != before
        return torch.cat([g.reshape(-1) for g in grads]), loss.detach()

    def _loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The batch's mean loss, in training."""
        if self.autocast is None:
            return self.loss_of(self.model(inputs), targets)
        with torch.autocast(self.device.type, self.autocast):
            outputs = self.model(inputs)
        return self.loss_of(outputs.to(self.dtype), targets)

    def _gradients(self, loss: Tensor) -> Sequence[Tensor]:
        """Of the loss with respect to each parameter; zeros where the loss does not reach one."""
        if _ENGINE is None or loss.dim() != 0 or loss.dtype != self._one.dtype:
            return torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        found = _ENGINE.run_backward((loss,), (self._one,), False, False, self._inputs, True, accumulate_grad=False)
        return [torch.zeros_like(p) if g is None else g for g, p in zip(found, self._inputs, strict=True)]

    def _set(self, x: Tensor, train: bool) -> None:
        flat = self.flat
        if self._bound is not flat:
            self._bind(flat)
        flat.copy_(x.detach())
        self._train(train)

    def _bind(self, x: Tensor) -> None:
        self._pieces = bound(self.parameters, x)
        self._bound = x

    def _train(self, train: bool) -> None:
        if self.model.training is not train:
            self.model.train(train)

    def _versions(self) -> int:
        """A number that changes when someone writes into the parameters."""
        return sum(p._version for p in self.parameters)


def bound(parameters: Iterable[nn.Parameter], x: Tensor) -> list[Tensor]:
    """Make the parameters views of x `[d]`; the views."""
    offset, pieces = 0, []
    for p in parameters:
        piece = x[offset : offset + p.numel()].view(p.shape)
        p.data = piece
        pieces.append(piece)
        offset += p.numel()
    return pieces


def flatten(tensors: Sequence[Tensor], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """One flat tensor `[d]` of all elements in order, in memory of its own."""
    if not tensors:
        return torch.zeros(0, dtype=dtype, device=device)
    return torch.cat([t.reshape(-1) for t in tensors])
