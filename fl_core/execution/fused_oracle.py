"""The oracle of many clients: values and gradients of G batches at G points, in one forward and one backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fl_core.execution.fused_functions import ClientFunctions
from fl_core.execution.fused_level import Level
from fl_core.oracle import Oracle

Generators = Callable[[int], torch.Generator]


class StackedOracle:
    """The model of an `Oracle`, evaluated for many clients at once; each gets the bits the oracle gives it alone.

    Args:
        oracle: its model is used, and left as it was.
    """

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle
        self._parameters: list[tuple[list[tuple[nn.Module, str]], torch.Size, int, int]] = []
        places = _places(oracle.model, "_parameters")
        offset = 0
        for p in oracle.parameters:
            self._parameters.append((places[id(p)], p.shape, offset, p.numel()))
            offset += p.numel()
        self._buffers = [(places, b) for b, places in _buffers(oracle.model)]

    def fresh_buffers(self, size: int) -> list[Tensor]:
        """`[G, …]`: every buffer of the model at its start, for each client."""
        return [start.expand(size, *start.shape).clone() for start in self.oracle.initial_buffers]

    def gradient(
        self, x: Tensor, inputs: Tensor, targets: Tensor, buffers: Sequence[Tensor], generators: Generators
    ) -> tuple[Tensor, Tensor]:
        """(∇ `[G, d]`, values `[G]`) at x `[G, d]` for inputs `[G, b, …]` and targets `[G, b, …]`."""
        with torch.enable_grad():
            leaves = [
                x[:, start : start + count].view(x.shape[0], *shape).detach().requires_grad_()
                for _, shape, start, count in self._parameters
            ]
            values = self._values(leaves, inputs, targets, buffers, generators)
            grads = torch.autograd.grad(values.sum(), leaves, materialize_grads=True)
        g = torch.cat([grad.reshape(x.shape[0], -1) for grad in grads], 1) if len(grads) > 1 else _own(grads[0], x)
        values = values.detach()
        if self.oracle.regularizer is not None:
            g += self.oracle.regularizer.gradient(x)
            values = values + self._regularization(x)
        return g, values

    def value(
        self, x: Tensor, inputs: Tensor, targets: Tensor, buffers: Sequence[Tensor], generators: Generators
    ) -> Tensor:
        """Values `[G]`, without a gradient."""
        with torch.no_grad():
            leaves = [
                x[:, start : start + count].view(x.shape[0], *shape) for _, shape, start, count in self._parameters
            ]
            values = self._values(leaves, inputs, targets, buffers, generators)
            return values if self.oracle.regularizer is None else values + self._regularization(x)

    def _values(
        self,
        leaves: Sequence[Tensor],
        inputs: Tensor,
        targets: Tensor,
        buffers: Sequence[Tensor],
        generators: Generators,
    ) -> Tensor:
        if not self.oracle.model.training:
            self.oracle.model.train()
        level = Level(inputs.shape[0])
        with level, ClientFunctions(level, generators):
            with self._swapped([level.of(leaf) for leaf in leaves], [level.of(buffer) for buffer in buffers]):
                outputs = self.oracle.model(level.of(inputs))
            return level.stack(self.oracle.loss_of(outputs, level.of(targets)))

    @contextmanager
    def _swapped(self, parameters: Sequence[Tensor], buffers: Sequence[Tensor]) -> Iterator[None]:
        kept = [(places, places[0][0]._parameters[places[0][1]]) for places, *_ in self._parameters]
        try:
            for (places, _), tensor in zip(kept, parameters, strict=True):
                for module, name in places:
                    module._parameters[name] = tensor  # type: ignore[assignment]  # what forward() reads, no more
            for (places, _), tensor in zip(self._buffers, buffers, strict=True):
                for module, name in places:
                    module._buffers[name] = tensor
            yield
        finally:
            for places, parameter in kept:
                for module, name in places:
                    module._parameters[name] = parameter
            for places, buffer in self._buffers:
                for module, name in places:
                    module._buffers[name] = buffer

    def _regularization(self, x: Tensor) -> Tensor:
        regularizer = self.oracle.regularizer
        assert regularizer is not None
        return torch.stack([regularizer.value(row) for row in x.unbind()])


def _own(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient of the only parameter as `[G, d]`, in memory of its own."""
    return grad.reshape(x.shape[0], -1).contiguous()


def _places(model: nn.Module, kind: str) -> dict[int, list[tuple[nn.Module, str]]]:
    """id of a parameter or buffer -> every (module, name) it is found under: tied weights have several."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, tensor in getattr(module, kind).items():
            if tensor is not None:
                places.setdefault(id(tensor), []).append((module, name))
    return places


def _buffers(model: nn.Module) -> list[tuple[Tensor, list[tuple[nn.Module, str]]]]:
    places = _places(model, "_buffers")
    return [(buffer, places[id(buffer)]) for buffer in model.buffers()]
