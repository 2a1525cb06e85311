"""A fused cohort gives the bytes of the client-by-client run: every method, model, optimizer, and ragged clients."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import algorithms
from fl_core.execution.audit import difference_of
from fl_core.execution.cohort import CohortResult, CohortWork
from fl_core.execution.fused import CannotFuseError, FusedRunner
from fl_core.execution.fused_batches import Batch
from fl_core.execution.fused_oracle import StackedOracle
from fl_core.experiment.schema import Experiment
from fl_core.oracle import Oracle
from fl_core.server import Round
from fl_core.session import Session, open_session

METHODS = sorted(path.stem for path in Path(algorithms.__path__[0]).glob("*.py") if path.stem != "__init__")
RAGGED = """
import torch
from fl_core import FederatedData

def load(*, clients: int, shape: tuple[int, ...] = (6,), classes: int = 3) -> FederatedData:
    source = torch.Generator().manual_seed(0)
    sizes = [3 + (5 * i) % 7 for i in range(clients)]
    return FederatedData(
        [
            (torch.randn(m, *shape, generator=source), torch.randint(classes, (m,), generator=source))
            for m in sizes
        ],
        classes=classes,
    )
"""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def differences(loop: Callable[..., Any]) -> Callable[..., list[str | None]]:
    """Runs a session's rounds both ways; what differs, cohort by cohort."""

    def run(session: Session, rounds: int = 3) -> list[str | None]:
        found: list[str | None] = []
        rounds_of = loop(session)
        fused = FusedRunner(rounds_of.runner)

        def both(round: Round, work: CohortWork) -> CohortResult:
            expected: CohortResult = rounds_of.runner.run(round.broadcast, work)
            found.append(difference_of(expected, fused.run(round.broadcast, work)))
            return expected

        rounds_of.execute = both
        rounds_of.run(rounds)
        return found

    return run


def ragged(**changes: Any) -> Session:
    """An experiment on 16 clients with 3 to 9 samples each."""
    source = {
        "role": "data",
        "name": "ragged.py",
        "sha256": hashlib.sha256(RAGGED.encode()).hexdigest(),
        "text": RAGGED,
    }
    tables: dict[str, Any] = {
        "name": "t",
        "rounds": 3,
        "seed": 1,
        "sources": [source],
        "algorithm": {"name": "fedavg"},
        "data": {"name": "ragged.py"},
        "model": {"name": "logistic", "loss": "cross_entropy"},
        "clients": {"total": 16},
        "local": {"epochs": 2, "batch_size": 4, "optimizer": {"name": "sgd", "lr": 0.1}},
        "execution": {"cohort": 16},
    }
    return open_session(Experiment.from_dict(tables | changes))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("name", METHODS)
def test_nothing_of_a_cohort_is_left_to_the_garbage_collector(
    session: Any, loop: Callable[..., Any], name: str, optimizer: str
) -> None:
    """Neither way: a circle would keep a cohort's stacks while the next one's are made beside them."""
    rounds = loop(
        session(
            local={"steps": 1, "optimizer": {"name": optimizer, "lr": 0.1}},
            algorithm={"name": name.replace("_", "-")},
            execution={"cohort": 16},
        )
    )
    fused = FusedRunner(rounds.runner)
    ways: list[Callable[[Any, CohortWork], CohortResult]] = [rounds.runner.run, fused.run]
    round, (work, *_) = rounds.begin(1)
    for run in ways:
        run(round.broadcast, work)  # what is remembered for good is made here
    gc.disable()
    gc.freeze()  # what there is already is not looked at
    try:
        for run in ways:
            run(round.broadcast, work)
        assert gc.collect() == 0
    finally:
        gc.unfreeze()
        gc.enable()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_the_bytes_of_its_clients_alone(session: Any, differences: Any, name: str, dtype: str) -> None:
    """One full-gradient step, as theory has it: replies, memories and metrics agree in every bit, round after round."""
    made = session(
        data={"name": "quadratic", "d": 8, "samples_per_client": 12},
        model={"name": "linear", "loss": "mse", "dtype": dtype},
        clients={"total": 12},
        local={"steps": 1, "gradient": "full", "optimizer": {"name": "sgd", "lr": 0.1}},
        algorithm={"name": name.replace("_", "-")},
        execution={"cohort": 12},
    )
    assert differences(made) == [None] * 3


@pytest.mark.parametrize("name", METHODS)
def test_every_method_with_ragged_clients(differences: Any, name: str) -> None:
    """Unequal numbers of steps and unequal last batches are sorted, shrunk and grouped without a bit changing."""
    made = ragged(algorithm={"name": name.replace("_", "-")})
    assert differences(made) == [None] * 3


@pytest.mark.parametrize("uplink", [{"name": "randk", "k": 3}, {"name": "natural"}, {"name": "qsgd", "s": 3}])
def test_each_client_compresses_with_its_own_randomness(differences: Any, uplink: dict[str, Any]) -> None:
    """A stochastic operator on a stack, clients sorted by steps, sends each client's bytes in the cohort's order."""
    made = ragged(uplink=uplink, algorithm={"name": "diana"})
    assert differences(made) == [None] * 3


OPTIMIZERS = [
    {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"name": "adam", "lr": 0.01},
    {"name": "adamw", "lr": 0.01},
    {"name": "rmsprop", "lr": 0.01, "momentum": 0.5},
    {"name": "adagrad", "lr": 0.1},
    {"name": "adadelta", "lr": 0.5},
    {"name": "adamax", "lr": 0.01},
    {"name": "nadam", "lr": 0.01},
    {"name": "radam", "lr": 0.01},
    {"name": "asgd", "lr": 0.01},
    {"name": "rprop", "lr": 0.01},
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda table: table["name"])
def test_an_elementwise_optimizer_on_a_stack_is_one_a_client(differences: Any, optimizer: Any) -> None:
    """torch.optim on the stacked leaf, its state shrinking as clients finish, equals G optimizers."""
    made = ragged(local={"epochs": 3, "batch_size": 4, "optimizer": optimizer})
    assert differences(made, rounds=2) == [None] * 2


def test_an_optimizer_that_mixes_numbers_is_not_fused(differences: Any) -> None:
    """Adafactor scales by the norm of a whole vector, so a stack of vectors is not for it."""
    made = ragged(local={"steps": 1, "batch_size": 4, "optimizer": {"name": "adafactor", "lr": 0.1}})
    with pytest.raises(CannotFuseError, match="adafactor"):
        differences(made, rounds=1)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"name": "mlp", "hidden": [5], "dropout": 0.3, "loss": "cross_entropy"}},
        {"model": {"name": "logistic", "regularizer": {"name": "nonconvex", "alpha": 0.1}}},
        {"model": {"name": "logistic", "regularizer": {"name": "l2", "alpha": 0.1}}},
        {"local": {"steps": 3, "gradient": "nice", "tau": 2, "optimizer": {"name": "sgd", "lr": 0.1}}},
        {"local": {"steps": 3, "gradient": "multi", "tau": "40%", "optimizer": {"name": "sgd", "lr": 0.1}}},
        {"local": {"steps": 2, "gradient": "uniform", "optimizer": {"name": "sgd", "lr": 0.1}}},
    ],
    ids=["dropout", "nonconvex", "l2", "nice", "multi", "uniform"],
)
def test_estimators_regularizers_and_dropout(differences: Any, changes: dict[str, Any]) -> None:
    """Samples and dropout masks are those of each client's own generators."""
    assert differences(ragged(**changes), rounds=2) == [None] * 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("d", [1, 3, 20, 33])
def test_least_squares_with_any_number_of_samples(session: Any, differences: Any, d: int, dtype: str) -> None:
    """Products of odd sizes, where one kernel serves whole blocks and another the rest, round as they do alone."""
    made = session(
        data={"name": "quadratic", "d": d, "samples_per_client": 7, "mu": 0.0},
        model={"name": "linear", "loss": "mse", "dtype": dtype},
        clients={"total": 30},
        local={"steps": 2, "gradient": "full", "optimizer": {"name": "sgd", "lr": 0.1}},
        execution={"cohort": 30},
    )
    assert differences(made, rounds=2) == [None] * 2


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    ),
    "group and layer norm": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.Flatten(), nn.LayerNorm(144), nn.Linear(144, 3)
    ),
    "exponentials": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(64, 9), nn.GELU(), nn.Linear(9, 7), nn.Sigmoid(), nn.Linear(7, 3), nn.Softplus()
    ),
    "rows of rows": lambda: nn.Sequential(
        nn.Flatten(), nn.Unflatten(1, (8, 8)), nn.Linear(8, 6), nn.Tanh(), nn.Flatten(), nn.Linear(48, 3)
    ),
    "one dimension": lambda: nn.Sequential(
        nn.Flatten(2), nn.Conv1d(1, 2, 3), nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(8, 3)
    ),
    "pooling": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(8, 3)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("layers", LAYERS)
def test_every_kind_of_layer(layers: str, dtype: torch.dtype) -> None:
    """Two steps in a row: values, gradients and BatchNorm's running statistics are those of each client alone."""
    torch.manual_seed(0)
    oracle = Oracle(LAYERS[layers](), torch.nn.functional.cross_entropy, None, dtype)
    stacked = StackedOracle(oracle)
    source = torch.Generator().manual_seed(1)
    x = oracle.flat + 0.1 * torch.randn(9, oracle.d, dtype=dtype, generator=source)
    inputs = torch.randn(2, 9, 4, 1, 8, 8, dtype=dtype, generator=source)
    labels = torch.randint(3, (2, 9, 4), generator=source)
    buffers = stacked.fresh_buffers(9)
    batches = [Batch(range(9), 4, (inputs[step], labels[step]), None) for step in range(2)]
    found = [stacked.gradient(x, batch, buffers, lambda _: torch.Generator()) for batch in batches]
    for row in range(9):
        oracle.reset_buffers()
        for step in range(2):
            g, value = oracle.gradient(x[row], inputs[step, row], labels[step, row])
            assert torch.equal(found[step][0][row], g)
            assert torch.equal(found[step][1][row], value)
        for ours, theirs in zip(buffers, oracle.model.buffers(), strict=True):
            assert torch.equal(ours[row], theirs)


def test_the_model_is_left_as_it_was(session: Any) -> None:
    """The replica that the sequential runner uses has its own parameters again, also after an error inside."""
    oracle = session().problem.oracle("cpu")
    before = list(oracle.model.parameters())
    stacked = StackedOracle(oracle)
    x = oracle.flat.clone().expand(3, -1)
    wrong = torch.zeros(3, 2, 5, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64)
    with pytest.raises(RuntimeError):
        stacked.gradient(x, Batch(range(3), 2, wrong, None), [], lambda _: torch.Generator())
    assert [id(p) for p in oracle.model.parameters()] == [id(p) for p in before]
