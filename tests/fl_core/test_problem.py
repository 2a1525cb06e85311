"""Data, model, loss and regulariser, put together: from an experiment and the user's own files."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from algorithms.fedavg import FedAvg
from fl_core import State, zeros
from fl_core.errors import ExperimentError, PlugInError, UserCodeError
from fl_core.experiment.schema import Experiment
from fl_core.problem import Problem, Shape, assemble
from fl_core.shards import Shards
from fl_core.user_code import user_files

MakeExperiment = Callable[..., Experiment]
DIGITS: dict[str, Any] = {
    "data": {"name": "digits", "partition": {"name": "iid"}},
    "model": {"name": "logistic", "loss": "cross_entropy", "dtype": "float32"},
}

REGRESSION = """\
import torch
from fl_core import FederatedData

def load(*, rows: int = 3, **options):
    a = torch.arange(4.0 * rows).reshape(rows, 4)
    return FederatedData(train=[(a, a.sum(1)), (a + 1, a.sum(1) - 1)])
"""
MODEL = """\
import torch

def build(*, inputs, outputs, start: float = 0.5):
    model = torch.nn.Linear(inputs[0], outputs, bias=False)
    torch.nn.init.constant_(model.weight, start)
    return model
"""


def labelled(labels: str, more: str = "") -> str:
    """A data file with the labels of two clients."""
    return f"""\
import numpy, torch
from fl_core import FederatedData

def load(**options):
    clients = [(torch.ones(len(b), 3), torch.tensor(b)) for b in {labels}]
    return FederatedData(train=clients{more})
"""


def with_files(make: MakeExperiment, load: str, build: str | None = None, /, **changes: Any) -> Experiment:
    """An experiment on the user's own data of two clients, and perhaps her own model."""
    files = {("data", "my_data.py"): load} | ({} if build is None else {("model", "my_model.py"): build})
    tables: dict[str, Any] = {"data": {"name": "my_data.py"}, "clients": {"total": 2}} | changes
    if build is not None:
        tables["model"] = {"loss": "mse", "dtype": "float64", **tables.get("model", {}), "name": "my_model.py"}
    return make(files, **tables)


# --- the starting point ----------------------------------------------------------------------------------------------


def test_x0_depends_on_the_seed_alone(experiment: MakeExperiment) -> None:
    """Every process builds the same x0, whatever its global generator has done; another seed, another x0."""
    e = experiment(**DIGITS)
    first = assemble(e).x0
    torch.manual_seed(77)
    again = assemble(e).x0
    assert torch.equal(first, again)
    assert not torch.equal(first, assemble(experiment(**DIGITS, seed=2)).x0)
    assert first.count_nonzero() > 600, "the default initialisation is random"


@pytest.mark.usefixtures("global_generator_untouched")
def test_assembling_leaves_the_global_generator_alone(experiment: MakeExperiment) -> None:
    """Building a model in one run must not change another run's numbers."""
    assemble(experiment(**DIGITS))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_model_s_type(experiment: MakeExperiment, dtype: str) -> None:
    """Parameters and floating-point inputs have it, labels are int64; it starts at the rounded float32 model."""
    problem = assemble(experiment(**{**DIGITS, "model": {**DIGITS["model"], "dtype": dtype}}))
    kind = getattr(torch, dtype)
    assert problem.x0.dtype == problem.dtype == kind
    assert torch.equal(problem.x0, assemble(experiment(**DIGITS)).x0.to(kind))
    inputs, targets = problem.shard(3)
    assert (inputs.dtype, targets.dtype) == (kind, torch.int64)
    assert problem.test is not None
    assert problem.test[0].dtype == kind


def test_replicas_are_separate(experiment: MakeExperiment) -> None:
    """Each oracle has its own parameters: one slot's x is not another's."""
    problem = assemble(experiment(**DIGITS))
    with ThreadPoolExecutor(4) as pool:
        replicas = list(pool.map(lambda _: problem.oracle("cpu"), range(4)))
    replicas[0].flat.zero_()
    assert all(torch.equal(replica.flat, problem.x0) for replica in replicas[1:])
    assert torch.equal(problem.oracle("cpu").flat, problem.x0)


def test_memories_are_separate(experiment: MakeExperiment) -> None:
    """Each client starts with zeros of its own, in the model's type."""

    class Kept(FedAvg):
        class Memory(State):
            h: Tensor = zeros()
            count: int = 0

    problem = assemble(experiment(**DIGITS))
    first, second = problem.initial_memory(Kept()), problem.initial_memory(Kept())
    first.h.add_(1)
    assert torch.equal(second.h, torch.zeros(problem.d))
    assert (second.count, second.h.dtype) == (0, torch.float32)


# --- data ------------------------------------------------------------------------------------------------------------


def test_two_clients_and_four_parameters(experiment: MakeExperiment) -> None:
    """A user's own regression problem: her data comes in clients, her model starts where she says, in float64."""
    e = with_files(experiment, REGRESSION, MODEL, data={"name": "my_data.py", "rows": 2}, model={"start": 0.25})
    problem = assemble(e)
    assert (problem.n, problem.d, problem.shape) == (2, 4, Shape((4,), 1, None))
    assert torch.equal(problem.x0, torch.full((4,), 0.25, dtype=torch.float64))
    a = torch.arange(8.0, dtype=torch.float64).reshape(2, 4)
    assert torch.equal(problem.shard(1)[0], a + 1)
    assert torch.equal(problem.shard(0)[1], a.sum(1))
    assert (problem.classifies, problem.x_star, problem.test) == (False, None, None)
    g, value = problem.oracle("cpu").gradient(problem.x0, *problem.shard(0))
    residual = a @ problem.x0 - a.sum(1)
    assert float(value) == pytest.approx(float(residual.square().mean()), rel=1e-14)
    assert torch.allclose(g, a.T @ residual, rtol=1e-14)


def test_data_that_is_split(experiment: MakeExperiment) -> None:
    """A partition gives every sample to one client; the same in every process."""
    first, again = assemble(experiment(**DIGITS)), assemble(experiment(**DIGITS))
    assert sum(first.shards.size(i) for i in range(5)) == 1438
    assert first.shards.digest() == again.shards.digest()
    assert first.shards.digest() != assemble(experiment(**DIGITS, seed=2)).shards.digest()


def test_a_user_s_random_data_is_keyed(experiment: MakeExperiment) -> None:
    """Numbers that her load() draws from NumPy's or torch's global generators are a function of the run's seed."""
    data = """\
import numpy, random, torch
from fl_core import FederatedData

def load(**options):
    x = torch.tensor(numpy.random.rand(4, 2)) + torch.rand(4, 2) + random.random()
    return FederatedData(train=[(x, x.sum(1)), (x, x.sum(1))])
"""
    e = with_files(experiment, data)
    digest = assemble(e).shards.digest()
    torch.rand(3)
    assert assemble(e).shards.digest() == digest
    assert assemble(with_files(experiment, data, seed=2)).shards.digest() != digest


@pytest.mark.parametrize(
    ("data", "loss", "outputs", "classes"),
    [
        (labelled("[[0, 1], [2, 0]]"), "cross_entropy", 3, 3),
        (labelled("[[0, 1], [2, 0]]", ", classes=7"), "cross_entropy", 7, 7),
        (labelled("[[0, 1], [2, 0]]", ", test=(torch.ones(1, 3), torch.tensor([4]))"), "cross_entropy", 5, 5),
        (labelled("[[1, -1], [-1, 1]]"), "logistic", 1, None),
        (labelled("[[1, -1], [-1, 1]]", ", classes=2"), "logistic", 1, 2),
        (labelled("[[0.5, 1], [2, 0]]"), "mse", 1, None),
        (labelled("[[[0.5, 1]], [[2.0, 0]]]"), "mse", 2, None),
    ],
)
def test_how_many_outputs(experiment: MakeExperiment, data: str, loss: str, outputs: int, classes: int | None) -> None:
    """As many as labels (said by the data, or the labels there are) or as target columns; one for ±1."""
    problem = assemble(with_files(experiment, data, model={"name": "linear", "loss": loss}))
    assert (problem.shape.outputs, problem.shape.classes) == (outputs, classes)
    assert problem.d == 3 * outputs
    problem.oracle("cpu").gradient(problem.x0, *problem.shard(1))


def test_what_is_known_of_a_problem(experiment: MakeExperiment) -> None:
    """A quadratic knows its minimiser; x* is where the full gradient vanishes."""
    problem = assemble(experiment())
    assert problem.x_star is not None
    oracle = problem.oracle("cpu")
    g = sum(oracle.gradient(problem.x_star, *problem.shard(i))[0] for i in range(5))
    assert float(torch.as_tensor(g).norm()) < 1e-12


def test_a_worker_s_problem(experiment: MakeExperiment) -> None:
    """From the shape alone, without data, a worker builds the same model."""
    e = experiment(**DIGITS)
    problem = assemble(e)
    far = Problem(e, problem.shape, Shards(5), None, None)
    assert torch.equal(far.x0, problem.x0)
    assert (far.n, far.d) == (problem.n, problem.d)


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"name": "digits"}}, r"\[data\] partition: missing: digits does not come in clients"),
        ({"clients": {"total": 2000}}, r"\[clients\] total: 2000 clients cannot share 1438 samples"),
        ({"model": {"name": "logistic", "loss": "logistic"}}, r"needs labels -1 and \+1"),
    ],
)
def test_mistakes_of_the_experiment(experiment: MakeExperiment, changes: dict[str, Any], said: str) -> None:
    """They are errors at the key they are made at."""
    with pytest.raises(ExperimentError, match=said):
        assemble(experiment(**{**DIGITS, **changes}))


def test_data_in_clients_needs_no_partition(experiment: MakeExperiment) -> None:
    """And the number of clients is the data's."""
    data = {"name": "my_data.py", "partition": {"name": "iid"}}
    with pytest.raises(ExperimentError, match=r"\[data\] partition: my_data.py already comes in clients"):
        assemble(with_files(experiment, REGRESSION, data=data))
    with pytest.raises(ExperimentError, match=r"\[clients\] total: is 3, but the data comes in 2 clients"):
        assemble(with_files(experiment, REGRESSION, clients={"total": 3}))


@pytest.mark.parametrize(
    ("data", "model", "said"),
    [
        ("def load(**options):\n    return 3\n", None, "my_data.py: load.. must return FederatedData, not int"),
        (REGRESSION, "def build(**options):\n    return 3\n", "my_model.py: build.. must return a torch.nn.Module"),
    ],
)
def test_files_that_return_something_else(experiment: MakeExperiment, data: str, model: str | None, said: str) -> None:
    """The error says which file, and what was expected of it."""
    with pytest.raises(PlugInError, match=said):
        assemble(with_files(experiment, data, model))


def test_clients_whose_samples_differ_in_shape(experiment: MakeExperiment) -> None:
    """The error names file, client and shapes."""
    data = REGRESSION.replace("(a + 1, a.sum(1) - 1)", "(a[:, :3], a.sum(1))")
    with pytest.raises(PlugInError, match=r"my_data.py: client 1 has inputs \[3, 3\] and targets \[3\]"):
        assemble(with_files(experiment, data))


def test_a_model_that_cannot_be_copied(experiment: MakeExperiment) -> None:
    """Every slot needs a replica: what prevents it is the user's code."""
    model = MODEL.replace("    return model", "    model.lock = __import__('threading').Lock()\n    return model")
    problem = assemble(with_files(experiment, REGRESSION, model))
    with pytest.raises(UserCodeError, match=r"TypeError.*lock"):
        problem.oracle("cpu")


def test_a_model_without_parameters(experiment: MakeExperiment) -> None:
    """There is nothing to train."""
    model = "import torch\n\ndef build(**options):\n    return torch.nn.Identity()\n"
    with pytest.raises(ExperimentError, match=r"^model: the model has no parameters to train"):
        assemble(with_files(experiment, REGRESSION, model))


@pytest.mark.parametrize("which", ["data", "model"])
def test_a_mistake_in_a_user_s_file_names_its_line(experiment: MakeExperiment, which: str) -> None:
    """An exception in load() or build() is a UserCodeError with her file and line."""
    if which == "data":
        e, line = with_files(experiment, "def load(**options):\n\n    return [][1]\n"), 3
    else:
        e, line = with_files(experiment, REGRESSION, "def build(**options):\n    return [][1]\n"), 2
    with pytest.raises(UserCodeError, match="IndexError") as caught:
        assemble(e)
    assert caught.value.file == f"my_{which}.py"
    assert caught.value.line == line
    assert user_files(f"my_{which}.py")


def test_user_files_by_name(experiment: MakeExperiment) -> None:
    """Those of the given names, or all that this process has imported."""
    assemble(with_files(experiment, REGRESSION, MODEL))
    assert any(path.endswith("my_model.py") for path in user_files())
    assert all(path.endswith("my_data.py") for path in user_files("my_data.py"))
    assert user_files("nobody_has_this.py") == ()


def test_a_load_that_leaves_the_interpreter(experiment: MakeExperiment) -> None:
    """sys.exit() in load() is an error of the user's file, with its line."""
    load = "import sys\n\ndef load():\n    sys.exit(4)\n"
    with pytest.raises(UserCodeError, match=r"my_data\.py:4: SystemExit: 4"):
        assemble(with_files(experiment, load))
