"""The client that stands for many: what an algorithm's methods see when they run once for a whole cohort.

`x`, the memory and the replies are tensors that differ between the clients of the level; the oracle, the operator and
the optimizer step out of it and work on stacks. What has no form for many at once raises, and the cohort runs client by
client.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fl_core.algorithm import Algorithm
from fl_core.client import Client, LocalWork, Message
from fl_core.execution.fused_batches import Batch
from fl_core.execution.fused_functions import CannotFuseError, ClientFunctions
from fl_core.execution.fused_level import Level, outside
from fl_core.execution.fused_optimizer import StackedTorchOptimizer
from fl_core.execution.fused_work import StackedWork
from fl_core.optimizers import FlatOptimizer


class StackedMessage(Message):
    """A message of every client: `value` differs between them, the bytes are kept by the work."""

    def __init__(self, value: Tensor, call: int) -> None:
        object.__setattr__(self, "value", value)
        object.__setattr__(self, "call", call)

    @property
    def payload(self) -> Any:
        """Raises CannotFuseError."""
        raise CannotFuseError("it reads the bytes of a message")


class StackedOptimizer(FlatOptimizer):
    """The optimizers of all clients; `step` is theirs, on tensors that differ."""

    def __init__(self, client: StackedClient, name: str, options: dict[str, Any]) -> None:
        super().__init__(name, options)
        self._client: StackedClient = weakref.proxy(client)  # it holds this one: a circle keeps a cohort's stacks
        self._stacked = None if self.plain else StackedTorchOptimizer(name, options)

    def start(self, x: Tensor) -> Tensor:
        """Begin at x. What all clients share is not copied: the first step makes it differ."""
        self._leaf = None
        return x

    def moved(self, x: Tensor) -> None:
        """Steps have been taken without it, to x."""
        self._leaf = x

    def step(self, x: Tensor, g: Tensor) -> Tensor:
        """The next point from x and the gradient g; written over x where that is what `step` returned last."""
        if self._stacked is None:
            if x is not self._leaf:
                self._leaf = torch.add(x, g, alpha=-self.lr)
            else:
                x.add_(g, alpha=-self.lr)
            return self._leaf
        return self._client.on_stacks(self._stacked.step, x, g)


class StackedClient(Client):
    """Clients `first` … `last - 1` of a cohort as one.

    Args:
        memory: its record at the start; whoever enters a level sets it anew.
        omega: gives ω of the uplink operator.
    """

    def __init__(
        self, stacked: StackedWork, work: LocalWork, round: int, memory: Any, omega: Callable[[], float]
    ) -> None:
        # Not Client.__init__: there is no one shard and no one replica here.
        self.round = round
        self.memory = memory
        self.lr = work.lr
        self.first = self.last = 0
        self.steps = 0
        self.x0 = torch.empty(0)
        self.optimizer: StackedOptimizer = StackedOptimizer(self, *work.optimizer)
        self._work = work
        self._stacked = stacked
        self._omega = omega
        self._step = 0
        self._compressions = 0
        self._single_gradient = None
        self._lanes: tuple[Level, ClientFunctions] | None = None

    def enter(self, level: Level, functions: ClientFunctions, first: int, last: int) -> None:
        """From now on stand for rows first … last-1, inside this level."""
        self._lanes, self.first, self.last = (level, functions), first, last

    # --- what one client has, and many do not --------------------------------------------------------------------

    @property
    def id(self) -> int:  # type: ignore[override]
        """Raises CannotFuseError."""
        raise CannotFuseError("it asks for client.id")

    @property
    def m(self) -> int:  # type: ignore[override]
        """The number of samples, where it is the same for all."""
        found = self._stacked.batches.m[self.first : self.last]
        if bool((found != found[0]).any()):
            raise CannotFuseError("it asks for client.m, which differs within the cohort")
        return int(found[0])

    @property
    def inputs(self) -> Tensor:  # type: ignore[override]
        """Raises CannotFuseError."""
        raise CannotFuseError("it reads a client's samples itself")

    @property
    def targets(self) -> Tensor:  # type: ignore[override]
        """Raises CannotFuseError."""
        raise CannotFuseError("it reads a client's samples itself")

    @property
    def omega(self) -> float:
        """ω of the uplink operator."""
        return self._omega()

    def generator(self, *purpose: int | str) -> torch.Generator:
        """Raises CannotFuseError."""
        raise CannotFuseError("it asks for client.generator")

    # --- the oracle ----------------------------------------------------------------------------------------------

    def gradient(self, x: Tensor) -> Tensor:
        """Stochastic gradients of all clients, on the samples of the present local step."""
        return self._ask(self._stacked.gradient, x, lambda: self._stacked.batches.at(self._step, self.first, self.last))

    def full_gradient(self, x: Tensor) -> Tensor:
        """∇f_i(x) of all clients."""
        return self._ask(self._stacked.gradient, x, lambda: self._stacked.batches.full(self.first, self.last))

    def loss(self, x: Tensor) -> Tensor:
        """f_i at x on the samples of the present local step."""
        return self._ask(self._stacked.loss, x, lambda: self._stacked.batches.at(self._step, self.first, self.last))

    def pseudo_gradient_at(self, y: Tensor) -> Tensor:
        """The pseudo-gradient of the same local steps, on the same samples, from another point y."""
        x0, optimizer = self.x0, self.optimizer
        self.optimizer = StackedOptimizer(self, *self._work.optimizer)
        try:
            x, single = self._walk(y)
        finally:
            self.x0, self.optimizer = x0, optimizer
        return single if isinstance(single, Tensor) else (y - x) / (self.steps * self.lr)

    def compress(self, v: Tensor) -> Message:
        """C(v) of every client, with its own randomness."""
        call = self._compressions
        self._compressions += 1
        value = self.on_stacks(lambda rows: self._stacked.compress(rows, self.first, self.last, call), v)
        return StackedMessage(value, call)

    # --- local steps ---------------------------------------------------------------------------------------------

    def _walk(self, x0: Tensor) -> tuple[Tensor, Tensor | Sequence[Tensor] | None]:
        """Where LocalGradient and ClientOpt are the default, plain SGD goes all its steps outside the level."""
        algorithm = type(self._method[0])
        default = algorithm.client_opt is Algorithm.client_opt and algorithm.local_gradient is Algorithm.local_gradient
        if not (default and self.optimizer.plain and self.steps > 0):
            return super()._walk(x0)
        self.x0 = x0
        x, g = self.optimizer.start(x0), None
        if self.steps == 1:
            self._step = 0
            g = self.gradient(x)
            x = self.optimizer.step(x, g)
        else:
            x = self.on_stacks(self._descended, x)
            self.optimizer.moved(x)
        self._step = self.steps
        return x, g

    def _descended(self, x: Tensor) -> Tensor:
        """All steps of gradient descent from x `[r, d]`."""
        batches = self._stacked.batches
        steps = (batches.at(k, self.first, self.last) for k in range(self.steps))
        return self._stacked.descend(x, steps, self.first, self.optimizer.lr)

    # --- stepping out --------------------------------------------------------------------------------------------

    def on_stacks(self, function: Callable[..., Tensor], *values: Tensor) -> Tensor:
        """Give `function` the stacks of tensors; what it returns, `[r, …]`, differs between the clients."""
        assert self._lanes is not None
        level, functions = self._lanes
        functions.leave()
        try:
            stacks = [level.stack(value) for value in values]
            with outside():
                result = function(*stacks)
        finally:
            functions.enter()
        return level.of(result)

    def _ask(
        self, oracle: Callable[[Tensor, Sequence[Batch], int], Tensor], x: Tensor, batches: Callable[[], list[Batch]]
    ) -> Tensor:
        return self.on_stacks(lambda rows: oracle(rows, batches(), self.first), x)
