"""Algorithm 1 in one thread: against a page of plain tensors, and against cohorts, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fl_core.errors import UserCodeError
from fl_core.reference import run_reference
from fl_core.sampling import sample_clients
from fl_core.session import Session, open_session

MakeSession = Callable[..., Session]
MakeLoop = Callable[..., Any]
DIGITS: dict[str, Any] = {
    "rounds": 2,
    "data": {"name": "digits", "partition": {"name": "dirichlet", "alpha": 0.3}},
    "model": {"name": "logistic", "loss": "cross_entropy", "dtype": "float32"},
    "clients": {"total": 40, "per_round": 9},
    "local": {"epochs": 1, "steps": None, "batch_size": 10, "optimizer": {"name": "sgd", "lr": 0.5}},
    "execution": {"cohort": 4},
}
IID = {"name": "digits", "partition": {"name": "iid"}}
HEAD = """\
from dataclasses import dataclass
import torch
from torch import Tensor
from fl_core import Algorithm, Message, State, zeros
from algorithms.fedavg import FedAvg
"""
STATEFUL = (
    HEAD
    + """
@dataclass(frozen=True)
class Mine(FedAvg):
    class ServerState:
        c: Tensor = zeros()
        rounds: int = 0

    class Memory:
        h: Tensor = zeros()
        scale: float = 0.1
        visits: int = 0
        seen: bool = False

    class Broadcast:
        c: Tensor
        rounds: int
        mine: Tensor
        rate: float

    class Reply:
        delta: Message
        change: Message
        dense: Tensor
        steps: int
        part: float

    def client_state(self, server, client_id):
        s = server.state
        return self.Broadcast(c=s.c, rounds=s.rounds, mine=s.c * client_id, rate=0.1 + client_id / 3)

    def local_gradient(self, client, x, s):
        return client.gradient(x) - client.memory.h + s.c + 1e-3 * client.memory.scale * s.rate

    def local_state(self, client, x0, x, s):
        m = client.memory
        change = client.compress(client.pseudo_gradient(x0, x) - m.h)
        noise = torch.randn(x.shape, dtype=torch.float64, generator=client.generator("noise")).to(x.dtype)
        client.memory = self.Memory(
            h=m.h + 0.5 * change.value, scale=m.scale * 1.1 + s.rounds, visits=m.visits + 1, seen=not m.seen
        )
        return self.Reply(
            delta=client.compress(x - x0), change=change, dense=1e-3 * noise + s.mine,
            steps=client.steps * client.memory.visits, part=client.memory.scale / 3,
        )

    def server_global_state(self, server, replies, g):
        c = server.state.c + (replies.sum("change") + replies.mean("dense")) / server.n
        if len(replies):
            c = c + 1e-6 * float(replies.sum("part")) * int(replies.sum("steps"))
        return self.ServerState(c=c, rounds=server.state.rounds + 1)
"""
)
WRONG = """
@dataclass(frozen=True)
class Mine(FedAvg):
    def local_gradient(self, client, x, s):
        return x / [][client.id]
"""
DROPOUT = """\
import torch

def build(*, inputs, outputs):
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 12), torch.nn.BatchNorm1d(12, track_running_stats=False),
        torch.nn.Dropout(0.3), torch.nn.ReLU(), torch.nn.Linear(12, outputs),
    )
"""


def finals(session: Session, loop: MakeLoop, **options: Any) -> tuple[Any, Any, list[dict[str, float]], Any]:
    """The servers after the last round, by the reference and by cohorts, and the metrics of both."""
    metrics, server = [], None
    for server, found in run_reference(session):  # noqa: B007  the last one is what counts
        metrics.append(dict(found))
    made = loop(session, **options)
    return server, made.run(), metrics, made


def assert_equal(ours: Any, theirs: Any) -> None:
    """Two servers agree in every bit of x and of their state."""
    (tensors, numbers), (others, other_numbers) = ours.snapshot(), theirs.snapshot()
    assert tensors.keys() == others.keys()
    assert numbers == other_numbers
    for name, value in tensors.items():
        assert value.dtype == others[name].dtype, name
        assert torch.equal(value, others[name]), name


# --- against plain tensors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["size", "uniform"])
def test_fedavg_in_a_page(session: MakeSession, weights: str) -> None:
    """The reference's FedAvg is McMahan's: permuted minibatches, plain SGD, a mean weighted by size (or not)."""
    s = session(
        {("data", "mine.py"): UNEQUAL},
        data={"name": "mine.py"},
        rounds=4,
        clients={"total": 4, "per_round": 2},
        local={"epochs": 2, "steps": None, "batch_size": 3, "optimizer": {"name": "sgd", "lr": 0.05}},
        server={"optimizer": {"name": "sgd", "lr": 0.7}},
        algorithm={"name": "fedavg", "weights": weights},
    )
    x = s.problem.x0.clone()
    for (server, metrics), t in zip(run_reference(s), range(1, 5), strict=True):
        start, total, weight, calls = x.clone(), torch.zeros_like(x), 0.0, 0
        for i in sample_clients("uniform", 4, 2, 1, t):
            a, b = s.problem.shard(i)
            y, m = start.clone(), len(b)
            for epoch in range(2):
                order = s.work.estimator.order(m, (1, t, i), epoch)
                for batch in [order] if m <= 3 else order.split(3):
                    y = y - 0.05 * 2 / len(batch) * a[batch].T @ (a[batch] @ y - b[batch])
            w = m if weights == "size" else 1
            total, weight, calls = total + w * (y - start), weight + w, calls + 2 * m
        x = start + 0.7 * total / weight
        assert torch.allclose(server.x, x, rtol=0, atol=1e-13)
        assert metrics["direction_norm"] == pytest.approx(float((total / weight).norm()), rel=1e-10)
        assert (metrics["round"], metrics["clients"], metrics["oracle_calls"]) == (t, 2, calls)
        assert (metrics["bits_up"], metrics["bits_down"]) == (2 * 64 * 3, 2 * 64 * 3)


UNEQUAL = """\
import torch
from fl_core import FederatedData

def load(**options):
    g = torch.Generator().manual_seed(0)
    return FederatedData(train=[
        (torch.randn(m, 3, dtype=torch.float64, generator=g), torch.randn(m, dtype=torch.float64, generator=g))
        for m in (2, 7, 4, 9)
    ])
"""


def test_the_mean_training_loss(session: MakeSession) -> None:
    """loss_train is the mean over the samples the participants saw."""
    s = session(rounds=1, local={"steps": 1, "gradient": "full"}, clients={"total": 5})
    _, metrics = next(iter(run_reference(s)))
    losses = torch.stack([(a @ s.problem.x0 - b).square().mean() for a, b in map(s.problem.shard, range(5))])
    assert metrics["loss_train"] == pytest.approx(float(losses.mean()), rel=1e-12)


# --- against cohorts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("over_wire", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_type_runs_end_to_end(session: MakeSession, loop: MakeLoop, dtype: str, over_wire: bool) -> None:
    """Logistic regression on digits: the reference and cohorts, also through their messages, give the same bytes."""
    s = session(**{**DIGITS, "model": {**DIGITS["model"], "dtype": dtype}})
    server, other, metrics, made = finals(s, loop, over_wire=over_wire)
    assert_equal(server, other)
    assert server.x.dtype == getattr(torch, dtype)
    assert float((server.x - s.problem.x0).double().norm()) > 0.1
    for ours, theirs in zip(metrics, made.metrics, strict=True):
        assert {k: ours[k] for k in theirs} == theirs
    bits = torch.finfo(server.x.dtype).bits
    assert metrics[0]["bits_up"] == metrics[0]["bits_down"] == 9 * bits * s.problem.d


@pytest.mark.parametrize("uplink", [{"name": "randk", "k": "10%"}, {"name": "natural"}, {"name": "topk", "k": 30}])
def test_a_method_with_everything(session: MakeSession, loop: MakeLoop, uplink: dict[str, Any]) -> None:
    """Memory of every kind, two messages, dense and number replies, own fields: equal in every bit."""
    s = session(
        {("algorithm", "mine.py"): STATEFUL},
        **{**DIGITS, "rounds": 6},
        algorithm={"name": "mine.py"},
        uplink=uplink,
        downlink={"name": "randk", "k": "50%"},
        server={"optimizer": {"name": "adam", "lr": 0.01}, "schedule": {"name": "cosine"}},
    )
    server, other, metrics, made = finals(s, loop, over_wire=True)
    assert_equal(server, other)
    assert [m["bits_up"] for m in metrics] == [m["bits_up"] for m in made.metrics]
    visits = made.memories.gather(tuple(range(40)))["visits"]
    assert int(visits.max()) > 1, "someone must have come back for the memory to matter"


def test_dropout_and_batch_norm(session: MakeSession, loop: MakeLoop) -> None:
    """Masks are keyed, statistics start anew for each client: the same bytes by cohorts of any arrival."""
    s = session(
        {("model", "mine.py"): DROPOUT},
        **{**DIGITS, "model": {**DIGITS["model"], "name": "mine.py"}, "data": IID},
    )
    torch.manual_seed(1)
    server, other, _, _ = finals(s, loop)
    assert_equal(server, other)
    torch.manual_seed(2)
    assert_equal(finals(s, loop)[0], server)


def test_rounds_without_participants(session: MakeSession, loop: MakeLoop) -> None:
    """Poisson sampling may choose nobody: such a round moves nothing, and the run goes on."""
    s = session(rounds=12, clients={"total": 5, "per_round": 1, "sampling": "poisson"}, seed=3)
    server, other, metrics, _ = finals(s, loop)
    assert_equal(server, other)
    empty = [m for m in metrics if m["clients"] == 0]
    assert empty
    assert all((m["direction_norm"], m["bits_up"], m["bits_down"]) == (0.0, 0, 0) for m in empty)
    assert all("loss_train" not in m for m in empty), "nothing was measured"
    assert bool(torch.isfinite(server.x).all())


# --- what it refuses -------------------------------------------------------------------------------------------------


def test_randomness_that_cannot_be_keyed_is_refused(session: MakeSession) -> None:
    """Alpha dropout draws past the client's generator: the run fails, and says for whom."""
    model = DROPOUT.replace("torch.nn.Dropout(0.3)", "torch.nn.AlphaDropout(0.3)")
    s = session({("model", "mine.py"): model}, **{**DIGITS, "model": {**DIGITS["model"], "name": "mine.py"}})
    with pytest.raises(UserCodeError, match=r"UnkeyedDrawError.*\(client \d+\)"):
        list(run_reference(s))


def test_a_mistake_of_the_user_s(session: MakeSession) -> None:
    """Her exception has her file, line and client in the reference too."""
    text = HEAD + WRONG
    s = session({("algorithm", "mine.py"): text}, algorithm={"name": "mine.py"})
    with pytest.raises(UserCodeError, match=r"mine.py:10: IndexError: .*\(client 0\)"):
        list(run_reference(s))


def test_a_run_given_up_leaves_the_session_as_it_was(session: MakeSession) -> None:
    """Each call starts at x0 with fresh memories and optimizers: twice the same run."""
    s = session({("algorithm", "mine.py"): STATEFUL}, algorithm={"name": "mine.py"}, rounds=3)
    first = next(iter(run_reference(s)))[0].x.clone()
    again: list[Tensor] = [server.x.clone() for server, _ in run_reference(s)]
    assert torch.equal(again[0], first)
    assert len(again) == 3


def test_the_session_helper_is_the_real_thing() -> None:
    """The fixtures of this folder make the sessions that flmaster makes."""
    assert open_session.__module__ == "fl_core.session"
