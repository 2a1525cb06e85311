"""One client in one round, as an algorithm sees it: its samples, its memory, and the operations it may perform.

The same class serves the reference and every executor; nothing in it knows of threads or machines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compressors.compressor import Compressor, Encoded, placed
from fl_core.algorithm import Algorithm
from fl_core.errors import ExperimentError
from fl_core.estimators import Estimator
from fl_core.execution.streams import KeyedGenerators
from fl_core.optimizers import FlatOptimizer
from fl_core.oracle import Oracle
from fl_core.randomness import generator
from fl_core.state import shown


@dataclass(frozen=True, eq=False)
class Message:
    """A compressed vector: `value` C(v) `[d]` to go on with; `payload`, the very bytes that travel and are counted.

    `call` is which of the client's compressions of this round it is: the receiver re-creates the randomness from it.
    """

    value: Tensor
    payload: np.ndarray
    call: int
    _version: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_version", self.value._version)

    @property
    def is_unwritten(self) -> bool:
        """Whether `value` still holds what was encoded. An operator may share its memory with the payload."""
        return self.value._version == self._version


class UnreadMessage(Message):
    """A message on a device. Its bytes come from there when they are asked for: where sums are enough, nobody asks."""

    def __init__(self, encoded: Encoded, call: int) -> None:
        object.__setattr__(self, "value", encoded.value[0])
        object.__setattr__(self, "call", call)
        object.__setattr__(self, "_encoded", encoded)
        self.__post_init__()

    @property
    def payload(self) -> np.ndarray:
        """The very bytes that travel."""
        found: np.ndarray = vars(self)["_encoded"].payload
        return found


@dataclass(frozen=True)
class LocalWork:
    """What `[local]` and `[uplink]` say: the same for all clients."""

    estimator: Estimator
    optimizer: tuple[str, dict[str, Any]]
    compressor: Compressor
    seed: int

    @property
    def lr(self) -> float:
        """η_l, the local step size."""
        return float(self.optimizer[1].get("lr", 0.0))

    @property
    def plain_sgd(self) -> bool:
        """Whether a local step is x - η_l g and nothing else."""
        return self.optimizer[0].lower() == "sgd" and not any(
            self.optimizer[1].get(k) for k in ("momentum", "weight_decay")
        )


def omega_of(compressor: Compressor, d: int) -> float:
    """ω of an unbiased operator on `[d]`. Raises ExperimentError if it is biased."""
    omega = compressor.omega(d)
    if omega is None:
        raise ExperimentError("is biased, so it has no omega: the algorithm asks for one", path="uplink.name")
    return omega


def total_loss(losses: Sequence[tuple[Tensor, int]]) -> float:
    """Σ of (a batch's mean loss × its samples), in float64 and in order. It waits for the device: ask once."""
    return total_losses([losses])[0]


def total_losses(of_clients: Sequence[Sequence[tuple[Tensor, int]]]) -> list[float]:
    """`total_loss` of several clients. A device is waited for once."""
    values = [value for losses in of_clients for value, _ in losses]
    on_device = bool(values) and values[0].is_cuda
    numbers = iter(torch.stack(values).tolist()) if on_device else map(float, values)
    totals = []
    for losses in of_clients:
        total = 0.0
        for _, size in losses:
            total += next(numbers) * size
        totals.append(total)
    return totals


class Client:
    """Client i in round t.

    Attributes:
        id: i.
        m: the number of its samples.
        steps: local steps of this round; lr: η_l.
        memory: its Memory record; assign its fields to change what the client remembers.
        round: t, from 1.
        x0: the point `[d]` its local steps of this round start from (empty before).
        losses: the mean loss and the number of samples of each batch whose gradient was asked for.
        orders: gives the order of its samples in an epoch, int64 `[m]`, where whoever runs many clients draws theirs
            together; else None.
    """

    def __init__(
        self, id: int, round: int, shard: tuple[Tensor, Tensor], memory: Any, work: LocalWork, oracle: Oracle
    ) -> None:
        self.id = id
        self.round = round
        self.memory = memory
        self.inputs, self.targets = shard
        self.m = self.targets.shape[0]
        self.lr = work.lr
        self.steps = work.estimator.local_steps(self.m)
        self.optimizer = FlatOptimizer(*work.optimizer)
        self.orders: Callable[[int], Tensor] | None = None
        self.x0 = torch.empty(0)
        self.oracle_calls = 0
        self.loss_count = 0
        self._work = work
        self._oracle = oracle
        self._step = 0
        self.losses: list[tuple[Tensor, int]] = []
        self._batch: tuple[int, Sequence[Tensor]] | None = None
        self._order: tuple[int, Tensor] | None = None
        self._method: tuple[Algorithm, Any] = (Algorithm(), None)
        self._single_gradient: Tensor | Sequence[Tensor] | None = None
        self._compressions = 0

    @property
    def loss_sum(self) -> float:
        """Σ of (a batch's loss × its samples) over all gradients asked for so far, in float64."""
        return total_loss(self.losses)

    # --- the oracle ----------------------------------------------------------------------------------------------

    def gradient(self, x: Tensor) -> Tensor:
        """Stochastic gradient of f_i at x `[d]`, on the samples of the present local step (the same for every x)."""
        return self._asked(x, *self._samples())

    def full_gradient(self, x: Tensor) -> Tensor:
        """∇f_i(x) `[d]` over all of the client's samples."""
        return self._asked(x, self.inputs, self.targets)

    def loss(self, x: Tensor) -> Tensor:
        """f_i at x on the samples of the present local step; a tensor of one number."""
        return self._oracle.value(x, *self._samples())

    # --- local steps ---------------------------------------------------------------------------------------------

    def run(self, algorithm: Algorithm, x0: Tensor, s: Any) -> Tensor:
        """The local steps of Algorithm 1 from x0 `[d]`: for k < τ, g = LocalGradient, x = ClientOpt(x, g)."""
        self.steps = algorithm.local_steps(self, s)
        self._method = (algorithm, s)
        x, self._single_gradient = self._walk(x0)
        return x

    def pseudo_gradient(self, x0: Tensor, x: Tensor) -> Tensor:
        """(x0 - x)/(τ η_l): what τ local steps say the gradient is. With one plain step, its very gradient."""
        if self._single_gradient is not None:
            self._single_gradient = _joined(self._single_gradient)
            return self._single_gradient
        return (x0 - x) / (self.steps * self.lr)

    def pseudo_gradient_at(self, y: Tensor) -> Tensor:
        """The pseudo-gradient of the same local steps, on the same samples, from another point y `[d]`."""
        x0, optimizer = self.x0, self.optimizer  # the optimizer's vector is the x that the caller holds
        self.optimizer = FlatOptimizer(*self._work.optimizer)
        try:
            x, single = self._walk(y)
        finally:
            self.x0, self.optimizer = x0, optimizer
        return (y - x) / (self.steps * self.lr) if single is None else _joined(single)

    def _walk(self, x0: Tensor) -> tuple[Tensor, Tensor | Sequence[Tensor] | None]:
        """The local steps from x0: where they end; and the direction, if it was one step x0 - η_l g, in pieces."""
        algorithm, s = self._method
        plain = self._work.plain_sgd and type(algorithm).client_opt is Algorithm.client_opt
        default = plain and type(algorithm).local_gradient is Algorithm.local_gradient
        direct = default and type(self.optimizer) is FlatOptimizer and self.optimizer.plain
        self.x0 = x0
        x = self.optimizer.start(x0)
        g: Tensor | Sequence[Tensor] | None = None
        for k in range(self.steps):
            self._step = k
            if direct and self._oracle.can_descend(x):
                inputs, targets = self._samples()
                g, value = self._oracle.descend(x, inputs, targets, self.optimizer.lr)
                self._count(value, targets)
            else:
                g = algorithm.local_gradient(self, x, s)
                x = algorithm.client_opt(self, x, g)
        self._step = self.steps
        return x, g if plain and self.steps == 1 else None

    # --- what it sends -------------------------------------------------------------------------------------------

    @property
    def omega(self) -> float:
        """ω of the uplink operator: E|C(v) - v|² <= ω |v|². Raises ExperimentError if it is biased."""
        return omega_of(self._work.compressor, self._oracle.d)

    def compress(self, v: Tensor) -> Message:
        """C(v) by the experiment's uplink operator, with randomness of its own each time it is called.

        Raises ValueError: v is no vector `[d]`.
        """
        d = self._oracle.d
        if not isinstance(v, Tensor) or v.shape != (d,):
            raise ValueError(f"client.compress needs a vector [d] = [{d}], not {shown(v)}")
        call = self._compressions
        self._compressions += 1
        # Made only where the operator draws: most of the time of a small message would else go there.
        source = KeyedGenerators(self._work.seed, self.round, (self.id,), "compress", call)
        encoded = self._work.compressor.encode(v.unsqueeze(0), source)
        if encoded.value.is_cuda:
            return UnreadMessage(encoded, call)
        return Message(encoded.value[0], encoded.payload, call)

    def generator(self, *purpose: int | str) -> torch.Generator:
        """A generator for a purpose of the algorithm's own, keyed by (seed, round, client, purpose)."""
        return generator(self._work.seed, self.round, self.id, *purpose)

    def _asked(self, x: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        g, value = self._oracle.gradient(x, inputs, targets)
        self._count(value, targets)
        return g

    def _count(self, value: Tensor, targets: Tensor) -> None:
        """A gradient was asked for, on these samples."""
        size = targets.shape[0]
        self.oracle_calls += size
        self.loss_count += size
        self.losses.append((value, size))

    def _samples(self) -> Sequence[Tensor]:
        if self._batch is None or self._batch[0] != self._step:
            chosen = self._chosen()
            if chosen is None:
                self._batch = (self._step, (self.inputs, self.targets))
            else:
                self._batch = (self._step, (self.inputs.index_select(0, chosen), self.targets.index_select(0, chosen)))
        return self._batch[1]

    def _chosen(self) -> Tensor | None:
        """The samples of the present step, on their device; an epoch's order is drawn once."""
        estimator, key = self._work.estimator, (self._work.seed, self.round, self.id)
        place = estimator.place(self.m, self._step)
        if place is None:
            chosen = estimator.indices(self.m, key, self._step)
            return None if chosen is None else placed(chosen, self.targets.device)
        epoch, samples = place
        if self._order is None or self._order[0] != epoch:
            order = estimator.order(self.m, key, epoch) if self.orders is None else self.orders(epoch)
            self._order = (epoch, placed(order, self.targets.device))
        return self._order[1][samples]


def _joined(g: Tensor | Sequence[Tensor]) -> Tensor:
    """A gradient that may lie in pieces, one a parameter, as `[d]`."""
    return g if isinstance(g, Tensor) else torch.cat([piece.reshape(-1) for piece in g])
