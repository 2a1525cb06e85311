"""The oracle of a plain chain of layers for many clients, without autograd and without a function mode.

Most small models are `Flatten`, then `Linear` and `ReLU` in turn, under the mean of squares or cross entropy. Their
backward pass is known, and a step of theirs is a handful of products: what autograd and torch's function modes cost a
step is more than these. Clients are taken a few at a time, so that their samples are still in the cache when the
weights' gradients need them again.

Kernels are those of `kernels` and `loss_kernels`. `StackedOracle` tries each new shape on random points against the
replica that serves one client, and uses no chain that differs in a bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fl_core import losses
from fl_core.execution.fused_batches import Batch, Scratch
from fl_core.execution.kernels import DB, DW, DX, FORWARD, Plan, linear_plan, step_down
from fl_core.execution.loss_kernels import cross_entropy, mean_losses
from fl_core.oracle import Loss, Oracle
from fl_core.shards import Pair

_CACHED_BYTES = 8 << 20
"""Of samples that are worked on at a time."""
_FEW = 8
"""Clients that are taken together however large their samples are."""


@dataclass(frozen=True)
class _Linear:
    """A layer [o, i] whose weights begin at `w` of the flat vector, its bias at `b`."""

    o: int
    i: int
    w: int
    b: int | None

    @property
    def columns(self) -> slice:
        """Where the weights are in a flat vector."""
        return slice(self.w, self.w + self.o * self.i)

    @property
    def shifts(self) -> slice:
        """Where the bias is."""
        assert self.b is not None
        return slice(self.b, self.b + self.o)

    def weights(self, x: Tensor) -> Tensor:
        """Those of the points x `[r, d]`, `[r, o, i]`: a view."""
        return x[:, self.columns].view(-1, self.o, self.i)

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weights `[r, o, i]` and bias `[r, o]` of the points x `[r, d]`."""
        return self.weights(x), None if self.b is None else x[:, self.shifts]


_Layer = _Linear | None  # None: ReLU
_Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
_Means = Callable[[Tensor], Tensor]
_Piece = tuple[_Linear, Tensor, Tensor | None]  # a layer, the gradients of its weights `[r, o, i]` and bias `[r, o]`
_Room = Callable[[_Linear, Tensor], Tensor]  # a layer, points `[r, d]` -> memory for its weights' gradients


class Chain:
    """Values and gradients of many clients at many points.

    Args:
        layers: in order, of all parameters.
        flattens: whether samples of any shape are made vectors first.
        loss: outputs `[r, b, o]` and targets -> what each sample costs `[r, b]`, and the derivatives of the clients'
            means by the outputs; then, costs `[n, b]` -> means `[n]`.

    Attributes:
        means: the second of these.
    """

    def __init__(self, layers: list[_Layer], flattens: bool, loss: tuple[_Loss, _Means]) -> None:
        self._layers = layers
        self._flattens = flattens
        self._loss, self.means = loss
        self._scratch = Scratch()
        self._plans: dict[tuple[int, int, bool], list[Plan] | None] = {}

    @classmethod
    def of(cls, oracle: Oracle) -> Chain | None:
        """The oracle's model and loss as a chain; None where they are something else."""
        loss = _LOSSES.get(oracle.loss_of)
        modules = list(_flat(oracle.model))
        linears = [module for module in modules if type(module) is nn.Linear]
        known = all(type(module) in (nn.Flatten, nn.Linear, nn.ReLU, nn.Identity) for module in modules)
        if loss is None or not linears or not known or any(map(_altered, oracle.model.modules())):
            return None
        if [id(p) for layer in linears for p in layer.parameters()] != [id(p) for p in oracle.parameters]:
            return None  # frozen or tied
        if oracle.loss_of is losses.mse and linears[-1].out_features != 1:
            return None
        layers: list[_Layer] = []
        offset = 0
        for module in modules:
            if type(module) is nn.ReLU:
                layers.append(None)
            elif type(module) is nn.Flatten and (module.start_dim, module.end_dim) != (1, -1):
                return None
            elif type(module) is nn.Linear:
                o, i = module.out_features, module.in_features
                layers.append(_Linear(o, i, offset, None if module.bias is None else offset + o * i))
                offset += sum(p.numel() for p in module.parameters())
        return cls(layers, type(modules[0]) is nn.Flatten, loss)

    def fits(self, x: Tensor, batch: Batch) -> bool:
        """Whether it has kernels for batches like this at points like x `[G, d]`."""
        inputs, targets = batch.part(0, 1)
        if inputs.dtype != x.dtype or not (inputs.dim() == 3 or (self._flattens and inputs.dim() > 3)):
            return False
        if self._loss is cross_entropy and (targets.dim() != 2 or targets.is_floating_point()):
            return False
        return all(self._planned(x[a:b], batch.part(a, b, self._scratch)[0]) is not None for a, b in self.blocks(batch))

    def gradient(self, x: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """(∇ `[G, d]`, values `[G]`) at x `[G, d]`, without a regulariser."""
        g = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        costs = []
        for a, b in self.blocks(batch):
            rows = g[a:b]
            cost, pieces = self._differentiated(
                x[a:b], batch.part(a, b, self._scratch), functools.partial(_within, rows)
            )
            for layer, _, db in pieces:
                if db is not None:
                    rows[:, layer.shifts] = db
            costs.append(cost)
        return g, self.means(_joined(costs))

    def descend(self, x: Tensor, batch: Batch, lr: float, out: Tensor) -> Tensor:
        """out `[G, d]` = x - lr ∇, without a gradient `[G, d]` in between; out may be x. The costs `[G, b]` at x."""
        costs = []
        for a, b in self.blocks(batch):
            at = x[a:b]
            into = at if out is x else out[a:b]
            cost, pieces = self._differentiated(at, batch.part(a, b, self._scratch), self._spare)
            for layer, dw, db in pieces:
                _step(at, into, layer.columns, dw.view(b - a, -1), lr)
                if db is not None:
                    _step(at, into, layer.shifts, db, lr)
            costs.append(cost)
        return _joined(costs)

    def value(self, x: Tensor, batch: Batch) -> Tensor:
        """Values `[G]`."""
        found = []
        for a, b in self.blocks(batch):
            inputs, targets = batch.part(a, b, self._scratch)
            plans = self._planned(x[a:b], inputs)
            assert plans is not None
            found.append(self._loss(self._outputs(x[a:b], inputs, plans)[-1], targets)[0])
        return self.means(torch.cat(found))

    def blocks(self, batch: Batch) -> list[tuple[int, int]]:
        """First and last of the clients that are taken together."""
        count = len(batch.rows)
        most = _CACHED_BYTES // max(1, batch.nbytes_each)
        size = -(-count // -(-count // max(_FEW, most)))
        return [(first, min(first + size, count)) for first in range(0, count, size)]

    def _differentiated(self, x: Tensor, pair: Pair, room: _Room) -> tuple[Tensor, Iterator[_Piece]]:
        """The costs `[r, b]` at x `[r, d]`, and the gradient layer by layer, from the last on.

        Args:
            room: where the gradient of a layer's weights goes.
        """
        inputs, targets = pair
        plans = self._planned(x, inputs)
        assert plans is not None
        steps = self._outputs(x, inputs, plans)
        costs, dz = self._loss(steps.pop(), targets)
        return costs, self._backward(x, steps, dz, plans, room)

    def _backward(self, x: Tensor, steps: list[Tensor], dz: Tensor, plans: list[Plan], room: _Room) -> Iterator[_Piece]:
        linears = len(plans)
        for number in reversed(range(len(self._layers))):
            layer, h = self._layers[number], steps[number]
            if layer is None:
                dz = torch.ops.aten.threshold_backward(dz, h, 0)
                continue
            linears -= 1
            plan = plans[linears]
            dw = DW[plan[2]](dz, h, room(layer, x))
            db = None if layer.b is None else DB[plan[3]](dz)
            if linears:
                dz = DX[plan[1]](dz, layer.weights(x))
            yield layer, dw, db  # only now: whoever takes a piece may write where the weights are

    def _spare(self, layer: _Linear, x: Tensor) -> Tensor:
        """Room for one layer's `[r, o, i]`, until the next is asked for."""
        return self._scratch.rows("dw", layer.weights(x), len(x))

    def _outputs(self, x: Tensor, inputs: Tensor, plans: list[Plan]) -> list[Tensor]:
        """What each layer is given, `[r, b, …]`, and what the last one gives."""
        steps = [inputs.flatten(2)]
        linears = 0
        for layer in self._layers:
            if layer is None:
                steps.append(torch.relu(steps[-1]))
            else:
                steps.append(FORWARD[plans[linears][0]](steps[-1], *layer.operands(x)))
                linears += 1
        return steps

    def _planned(self, x: Tensor, inputs: Tensor) -> list[Plan] | None:
        key = (inputs.shape[0], inputs.shape[1], x.stride(0) == 0)
        if key not in self._plans:
            self._plans[key] = self._plan(x, inputs)
        return self._plans[key]

    def _plan(self, x: Tensor, inputs: Tensor) -> list[Plan] | None:
        plans: list[Plan] = []
        h = inputs.flatten(2)
        for layer in self._layers:
            if layer is None:
                continue
            plan = linear_plan(h, *layer.operands(x), needs_dx=bool(plans))
            if plan is None:
                return None
            plans.append(plan)
            h = torch.empty(*h.shape[:2], layer.o, dtype=x.dtype, device=x.device)
        return plans


def _within(g: Tensor, layer: _Linear, _: Tensor) -> Tensor:
    """Room for a layer in the gradients g `[r, d]` themselves."""
    return layer.weights(g)


def _step(x: Tensor, out: Tensor, columns: slice, g: Tensor, lr: float) -> None:
    """Columns of out `[r, d]` = those of x - lr g."""
    at = x[:, columns]
    step_down(at, g, lr, at if out is x else out[:, columns])


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _flat(model: nn.Module) -> Iterator[nn.Module]:
    """The layers of a Sequential, those inside it opened too."""
    if type(model) is nn.Sequential:
        for module in model:
            yield from _flat(module)
    else:
        yield model


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _altered(module: nn.Module) -> bool:
    """Whether it does more than its class says."""
    return "forward" in vars(module) or any(getattr(module, name) for name in _HOOKS)


def _mse(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """As `fl_core.losses.mse`, of outputs `[r, b, 1]`."""
    difference = outputs.squeeze(2) - (targets.squeeze(2) if targets.dim() > 2 else targets)
    return difference.square(), (difference * _twice_over(outputs.shape[1], outputs.dtype)).unsqueeze(2)


def _mse_means(costs: Tensor) -> Tensor:
    return costs.sum(1) / costs.shape[1]


@functools.cache
def _twice_over(b: int, dtype: torch.dtype) -> float:
    """2/b as autograd makes it: the division in the outputs' type."""
    return 2 * (torch.ones((), dtype=dtype) / b).item()


_LOSSES: dict[Loss, tuple[_Loss, _Means]] = {
    losses.mse: (_mse, _mse_means),
    losses.cross_entropy: (cross_entropy, mean_losses),
}
