"""The oracle of many clients: values and gradients of G batches at G points, in one forward and one backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fl_core.execution.fused_batches import Batch
from fl_core.execution.fused_chain import Chain
from fl_core.execution.fused_functions import ClientFunctions
from fl_core.execution.fused_level import Level
from fl_core.execution.kernels import describe, random_like, remembered, stands_for
from fl_core.oracle import Oracle, Regularizer

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
        self._chain = Chain.of(oracle)
        self._held: dict[tuple[int, int, bool], bool] = {}
        self._buffers = [(places, b) for b, places in _buffers(oracle.model)]

    def fresh_buffers(self, size: int) -> list[Tensor]:
        """`[G, …]`: every buffer of the model at its start, for each client."""
        return [start.expand(size, *start.shape).clone() for start in self.oracle.initial_buffers]

    @property
    def is_chain(self) -> bool:
        """Whether it needs no autograd, so that a stack of one client is faster than the client's own replica."""
        return self._chain is not None

    def gradient(
        self, x: Tensor, batch: Batch, buffers: Sequence[Tensor], generators: Generators
    ) -> tuple[Tensor, Tensor]:
        """(∇ `[G, d]`, values `[G]`) at x `[G, d]`, row by row on the batch's samples."""
        x = x if x.stride(1) == 1 else x.contiguous()
        if self._chain is not None and self._chain_holds(self._chain, x, batch):
            return self._regularized(x, *self._chain.gradient(x, batch))
        with torch.enable_grad():
            leaves = [leaf.detach().requires_grad_() for leaf in self._leaves(x)]
            values = self._values(leaves, batch, buffers, generators)
            grads = torch.autograd.grad(values.sum(), leaves, materialize_grads=True)
        g = torch.cat([grad.reshape(x.shape[0], -1) for grad in grads], 1) if len(grads) > 1 else _own(grads[0], x)
        return self._regularized(x, g, values.detach())

    def can_descend(self, x: Tensor, batch: Batch) -> bool:
        """Whether `descend` may be asked at x on these samples."""
        chain = self._chain
        return chain is not None and self.oracle.regularizer is None and self._chain_holds(chain, x, batch)

    def descend(self, x: Tensor, batch: Batch, lr: float, out: Tensor) -> Tensor:
        """out `[G, d]` = x - lr ∇, where out may be x: as `gradient` and an addition. The costs `[G, b]` at x."""
        assert self._chain is not None
        return self._chain.descend(x, batch, lr, out)

    def means(self, costs: Tensor) -> Tensor:
        """Values `[n]` of the costs `[n, b]` that `descend` has returned: of several steps at once."""
        assert self._chain is not None
        return self._chain.means(costs)

    def value(self, x: Tensor, batch: Batch, buffers: Sequence[Tensor], generators: Generators) -> Tensor:
        """Values `[G]`, without a gradient."""
        x = x if x.stride(1) == 1 else x.contiguous()
        if self._chain is not None and self._chain_holds(self._chain, x, batch):
            values = self._chain.value(x, batch)
        else:
            with torch.no_grad():
                values = self._values(self._leaves(x), batch, buffers, generators)
        return values if self.oracle.regularizer is None else values + self._regularization(x)

    def _leaves(self, x: Tensor) -> list[Tensor]:
        return [x[:, start : start + count].view(x.shape[0], *shape) for _, shape, start, count in self._parameters]

    def _regularized(self, x: Tensor, g: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if self.oracle.regularizer is None:
            return g, values
        g += self.oracle.regularizer.gradient(x)
        return g, values + self._regularization(x)

    def _chain_holds(self, chain: Chain, x: Tensor, batch: Batch) -> bool:
        """Whether the chain gives each client its own bits for batches of this shape at points like these."""
        key = (x.shape[0], batch.size, x.stride(0) == 0)
        found = self._held.get(key)
        if found is None:
            found = self._held[key] = chain.fits(x, batch) and self._agrees(chain, x, batch)
        return found

    def _agrees(self, chain: Chain, x: Tensor, batch: Batch) -> bool:
        """On random points, for the first and the last client of every block, against the replica for one."""
        source = torch.Generator().manual_seed(0)
        drawn = torch.randn(1 if x.stride(0) == 0 else x.shape[0], x.shape[1], generator=source, dtype=torch.float64)
        at = drawn.to(x.device, x.dtype).expand(x.shape)
        g, values = self._regularized(at, *chain.gradient(at, batch))
        alone = chain.value(at, batch)
        if self.oracle.regularizer is not None:
            alone = alone + self._regularization(at)
        for row in sorted({row for a, b in chain.blocks(batch) for row in (a, b - 1)}):
            inputs, targets = batch.part(row, row + 1)
            expected, value = self.oracle.gradient(at[row], inputs[0], targets[0])
            if not (stands_for(g[row], expected) and stands_for(values[row], value) and stands_for(alone[row], value)):
                return False
        return True

    def _values(
        self,
        leaves: Sequence[Tensor],
        batch: Batch,
        buffers: Sequence[Tensor],
        generators: Generators,
    ) -> Tensor:
        inputs, targets = batch.pair
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
        key = ("regularizer", type(regularizer), repr(regularizer), describe(x))
        if remembered(key, lambda source: _sums_alike(regularizer, random_like(x, source))):
            return regularizer.value(x)
        return torch.stack([regularizer.value(row) for row in x.unbind()])


def _sums_alike(regularizer: Regularizer, x: Tensor) -> bool:
    """Whether R of a stack has the bits of R of each row."""
    return stands_for(regularizer.value(x), torch.stack([regularizer.value(row) for row in x.unbind()]))


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
