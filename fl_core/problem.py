"""min_x f(x) = (1/n) Σ_i f_i(x): the clients' data, the model, the loss and the regulariser, put together."""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fl_core import plugins
from fl_core.datasets import FederatedData, Pair, Samples
from fl_core.datasets.torch_dataset import in_tensors
from fl_core.errors import ExperimentError, PlugInError
from fl_core.experiment.schema import PlugIn
from fl_core.intra_op import use_intra_op_threads
from fl_core.losses import fitted_targets, loss
from fl_core.models.norm import refuse_running_statistics
from fl_core.oracle import Oracle, bound, flatten
from fl_core.randomness import numpy_generator, seeded_globally
from fl_core.regularizers import regularizer
from fl_core.shards import Shards
from fl_core.state import initial
from fl_core.tensors import DTYPES
from fl_core.user_code import in_code_of

if TYPE_CHECKING:
    from fl_core.algorithm import Algorithm
    from fl_core.experiment.schema import Experiment
    from fl_core.theory.constants import Constants


@dataclass(frozen=True)
class Shape:
    """What a worker without the data must know to build the model: one sample's shape, and the number of outputs."""

    inputs: tuple[int, ...]
    outputs: int
    classes: int | None


class Problem:
    """Everything about f that an executor or an evaluation needs.

    Attributes:
        n: clients. d: parameters. dtype: of the parameters and of floating-point data.
        x0: the starting point `[d]`.
        shards: the clients' data. test: the test set, or None.
        constants: L, L_i, mu, x* where they are known exactly, or None.
    """

    def __init__(self, experiment: Experiment, shape: Shape, shards: Shards, test: Pair | None, constants: Any) -> None:
        self.experiment = experiment
        self.shape = shape
        self.shards = shards
        self.test = test
        self.constants: Constants | None = constants
        self.n = shards.n
        self.dtype = DTYPES[experiment.model.dtype]
        self.loss_name = experiment.model.loss
        self.loss = loss(experiment.model.loss)
        self.regularizer = regularizer(experiment.model.regularizer)
        self._model = self._build()
        self._copying = threading.Lock()
        trained = [p for p in self._model.parameters() if p.requires_grad]
        self.x0 = flatten([p.detach() for p in trained], self.dtype, "cpu")
        bound(trained, self.x0)  # the model that replicas are made of has no memory of its own
        self.d = self.x0.numel()
        if self.d == 0:
            raise ExperimentError("the model has no parameters to train", path="model")

    @property
    def classifies(self) -> bool:
        """Whether accuracy means something here."""
        return self.loss_name in ("cross_entropy", "logistic")

    @property
    def x_star(self) -> Tensor | None:
        """The minimiser of f `[d]`, where it is known."""
        return None if self.constants is None else self.constants.x_star

    def shard(self, i: int, device: torch.device | str = "cpu") -> Pair:
        """Client i's inputs and targets on a device."""
        return self.shards.shard(i, device)

    def oracle(self, device: torch.device | str) -> Oracle:
        """A fresh replica of the model with its loss."""
        with self._copying, in_code_of(self.experiment.model.plug):
            shared = {id(p): _sharing(p) for p in self._model.parameters() if type(p) is nn.Parameter}
            model = copy.deepcopy(self._model, shared)  # the oracle gives it parameters of its own
        autocast = torch.bfloat16 if self.experiment.execution.precision == "bfloat16" else None
        return Oracle(model, self.loss, self.regularizer, self.dtype, device, autocast)

    def named_parameters(self, x: Tensor) -> dict[str, Tensor]:
        """x `[d]` as the model's trained parameters by name, in memory of their own."""
        named = [(name, p) for name, p in self._model.named_parameters() if p.requires_grad]
        pieces = torch.split(x, [p.numel() for _, p in named])
        return {name: piece.view(p.shape).clone() for (name, p), piece in zip(named, pieces, strict=True)}

    def initial_memory(self, algorithm: Algorithm, device: torch.device | str = "cpu") -> Any:
        """The Memory of a client that has not taken part yet."""
        memory = initial(algorithm.Memory, type(algorithm).__name__, self.d, self.dtype)
        if torch.device(device).type != "cpu":
            for name, value in vars(memory).items():
                if isinstance(value, Tensor):
                    setattr(memory, name, value.to(device))
        return memory

    def _build(self) -> nn.Module:
        table = self.experiment.model.plug
        build = plugins.resolve("model", table.name, self.experiment.sources)
        context = {"inputs": self.shape.inputs, "outputs": self.shape.outputs}
        # The same x0 in every process: initialisation draws from torch's global generator, set by the run's seed.
        with seeded_globally(self.experiment.seed, "model"), in_code_of(table):
            model = plugins.call("model", build, context, table.options)
        if not isinstance(model, nn.Module):
            raise PlugInError(f"{table.name}: build() must return a torch.nn.Module, not {type(model).__name__}")
        refuse_running_statistics(model, table.name)
        return model.to(self.dtype)


def _sharing(p: nn.Parameter) -> nn.Parameter:
    """A parameter of its own with the memory of p, if p is trained; else with a copy."""
    return nn.Parameter(p.detach() if p.requires_grad else p.detach().clone(), p.requires_grad)


def assemble(experiment: Experiment, data_root: Path | None = None) -> Problem:
    """Load the data, split it over the clients, and put the problem together.

    Raises:
        MissingDataError: the data set is not on this machine.
        ExperimentError, PlugInError, UserCodeError: the experiment or one of the user's files is wrong.
    """
    use_intra_op_threads(1)  # data may be the product of a computation
    table = experiment.data.plug
    load = plugins.resolve("dataset", table.name, experiment.sources)
    context = {
        "data_root": data_root,
        "clients": experiment.clients.total,
        "seed": experiment.seed,
        "dtype": DTYPES[experiment.model.dtype],
    }
    with seeded_globally(experiment.seed, "data"), in_code_of(table):
        loaded = in_tensors(plugins.call("dataset", load, context, table.options))
    if not isinstance(loaded, Samples | FederatedData):
        raise PlugInError(f"{table.name}: load() must return FederatedData, not {type(loaded).__name__}")
    prepared = _Preparation(experiment, loaded.classes)
    if isinstance(loaded, Samples):
        shards = _split(experiment, prepared.pair(loaded.train), loaded.ids)
    else:
        shards = _given(experiment, [prepared.pair(pair) for pair in loaded.train])
    test = None if loaded.test is None else prepared.pair(loaded.test)
    inputs, targets = shards.shard(0)
    classes = loaded.classes or _classes(experiment, shards, test)
    outputs = classes or (targets.shape[1] if targets.dim() > 1 else 1)
    if experiment.model.loss == "logistic":
        outputs = 1
    shape = Shape(tuple(inputs.shape[1:]), outputs, classes)
    return Problem(experiment, shape, shards, test, getattr(loaded, "constants", None))


def _classes(experiment: Experiment, shards: Shards, test: Pair | None) -> int | None:
    """The number of labels, where the data set does not say it: those there are, from 0 on."""
    if experiment.model.loss != "cross_entropy":
        return None
    labels = [shards.whole()[1]] + ([] if test is None else [test[1]])
    return 1 + max(int(part.max()) for part in labels)


class _Preparation:
    """Brings tensors to the types the model and the loss need."""

    def __init__(self, experiment: Experiment, classes: int | None) -> None:
        self._dtype = DTYPES[experiment.model.dtype]
        self._loss = experiment.model.loss
        self._classes = classes

    def pair(self, pair: Pair) -> Pair:
        inputs, targets = pair
        if inputs.is_floating_point():
            inputs = inputs.to(self._dtype)
        return inputs.contiguous(), fitted_targets(self._loss, targets, self._dtype, self._classes).contiguous()


def _split(experiment: Experiment, samples: Pair, ids: Tensor | None) -> Shards:
    table, n = experiment.data.partition, experiment.clients.total
    if table is None and ids is not None:
        table = PlugIn("natural")
    if table is None:
        raise ExperimentError(
            f"missing: {experiment.data.plug.name} does not come in clients; say how to split it, as in "
            'partition = { name = "iid" }',
            path="data.partition",
        )
    if len(samples[1]) < n:
        raise ExperimentError(f"{n} clients cannot share {len(samples[1])} samples", path="clients.total")
    split = plugins.resolve("partition", table.name)
    context = {
        "targets": samples[1],
        "clients": n,
        "generator": numpy_generator(experiment.seed, "partition"),
        "ids": ids,
    }
    indices = plugins.call("partition", split, context, table.options)
    return Shards.of_partition(samples, indices)


def _given(experiment: Experiment, clients: list[Pair]) -> Shards:
    if experiment.data.partition is not None:
        raise ExperimentError(
            f"{experiment.data.plug.name} already comes in clients: leave partition out",
            path="data.partition",
        )
    if len(clients) != experiment.clients.total:
        raise ExperimentError(
            f"is {experiment.clients.total}, but the data comes in {len(clients)} clients",
            path="clients.total",
        )
    samples = clients[0][0].shape[1:], clients[0][1].shape[1:]
    for i, (inputs, targets) in enumerate(clients):
        if (inputs.shape[1:], targets.shape[1:]) != samples:
            raise PlugInError(
                f"{experiment.data.plug.name}: client {i} has inputs {list(inputs.shape)} and targets "
                f"{list(targets.shape)}; but for the first number they must be as client 0's, "
                f"{list(clients[0][0].shape)} and {list(clients[0][1].shape)}"
            )
    return Shards.of_clients(clients)
