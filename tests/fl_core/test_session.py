"""An experiment made ready to run: what of it is refused before the first round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from compressors.identity import Identity
from compressors.randk import RandK
from fl_core.errors import ExperimentError, PlugInError
from fl_core.experiment.schema import Experiment
from fl_core.session import Session, open_session, with_problem, with_server_lr

MakeExperiment = Callable[..., Experiment]
MakeSession = Callable[..., Session]
HEAD = """\
from dataclasses import dataclass
from torch import Tensor
from algorithms.fedavg import FedAvg
from fl_core import zeros

@dataclass(frozen=True)
class Mine(FedAvg):
"""


def own_method(body: str) -> dict[str, Any]:
    """A user's method with this body, and the table that names it."""
    text = HEAD + "".join(f"    {line}\n" for line in body.splitlines())
    return {"files": {("algorithm", "mine.py"): text}, "algorithm": {"name": "mine.py"}}


def test_what_local_and_uplink_say(session: MakeSession) -> None:
    """Estimator, optimizer, operator and seed of the experiment are what every client does."""
    s = session(
        local={"steps": 4, "gradient": "nice", "tau": "50%", "optimizer": {"name": "sgd", "lr": 0.3}},
        uplink={"name": "randk", "k": 2},
        seed=9,
    )
    assert (s.work.seed, s.work.lr, s.work.plain_sgd, s.work.compressor) == (9, 0.3, True, RandK(k=2))
    assert (s.work.estimator.kind, s.work.estimator.size(7), s.work.estimator.local_steps(7)) == ("nice", 4, 4)
    assert (s.layout.d, s.layout.dtype) == (6, torch.float64)
    assert s.tau == 4
    assert s.effort.samples == 4 * s.work.estimator.size(s.problem.shards.size(0))
    server = s.server()
    assert torch.equal(server.x, s.problem.x0)
    assert server.uplink == RandK(k=2)


def test_two_servers_of_a_session_are_separate(session: MakeSession) -> None:
    """Each starts at x0."""
    s = session()
    first = s.server()
    first.x.add_(1)
    assert torch.equal(s.server().x, s.problem.x0)


def test_the_mean_number_of_steps(experiment: MakeExperiment) -> None:
    """τ is the mean over clients where their sizes make their steps differ."""
    data = """\
import torch
from fl_core import FederatedData

def load(**options):
    return FederatedData(train=[(torch.ones(m, 2), torch.ones(m)) for m in (1, 4, 6)])
"""
    e = experiment(
        {("data", "mine.py"): data},
        data={"name": "mine.py"},
        clients={"total": 3},
        local={"epochs": 2, "batch_size": 3, "steps": None},
    )
    assert open_session(e).tau == 2 * (1 + 2 + 2) / 3


def test_a_memory_without_an_initial_value_is_refused(experiment: MakeExperiment) -> None:
    """Before the first round, with the line to write."""
    mine = own_method("class Memory:\n    h: Tensor")
    with pytest.raises(PlugInError, match=r"Mine\.Memory\.h needs an initial value: write `h: Tensor = zeros\(\)`"):
        open_session(experiment(**mine))


def test_a_server_state_without_an_initial_value_is_refused(experiment: MakeExperiment) -> None:
    """Unless the method sets it itself."""
    body = "class ServerState:\n    h: Tensor"
    with pytest.raises(PlugInError, match=r"Mine\.ServerState\.h needs an initial value"):
        open_session(experiment(**own_method(body))).server()
    body += "\ndef initialize_server_state(self, x):\n    return self.ServerState(h=2 * x)"
    server = open_session(experiment(**own_method(body))).server()
    assert torch.equal(server.state.h, 2 * server.x)


@pytest.mark.parametrize(
    ("needs", "uplink", "said"),
    [
        ("unbiased", {"name": "topk", "k": 2}, r"\[uplink\] name: mine.py needs an unbiased operator"),
        ("lossless", {"name": "randk", "k": 2}, r'\[uplink\] name: mine.py sends whole vectors: take "identity"'),
    ],
)
def test_an_operator_the_method_cannot_use(
    experiment: MakeExperiment, needs: str, uplink: dict[str, Any], said: str
) -> None:
    """The error names both and says what to take."""
    with pytest.raises(ExperimentError, match=said):
        open_session(experiment(**own_method(f'compressor = "{needs}"'), uplink=uplink))


def test_an_unbiased_operator_is_made_a_contraction(experiment: MakeExperiment) -> None:
    """A method that needs one gets C/(1 + ω); the bytes stay those of C. The downlink always is one."""
    mine = own_method('compressor = "contraction"')
    s = open_session(experiment(**mine, uplink={"name": "randk", "k": 2}, downlink={"name": "randk", "k": 3}))
    assert s.work.compressor.delta(6) == pytest.approx(1 / 3)
    assert s.downlink.delta(6) == pytest.approx(1 / 2)
    assert isinstance(open_session(experiment(**mine)).downlink, Identity)


def test_a_method_that_needs_everyone(experiment: MakeExperiment) -> None:
    """Partial participation is refused at its key."""
    mine = own_method('participation = "full"')
    open_session(experiment(**mine))
    with pytest.raises(ExperimentError, match=r"\[clients\] per_round: mine.py needs all 5 clients in every round"):
        open_session(experiment(**mine, clients={"total": 5, "per_round": 2}))


def test_a_user_s_compressor(experiment: MakeExperiment) -> None:
    """Her file's operator, with its options."""
    text = """\
from dataclasses import dataclass
from compressors.identity import Identity

@dataclass(frozen=True)
class Mine(Identity):
    level: int = 1
"""
    e = experiment({("uplink", "mine.py"): text}, uplink={"name": "mine.py", "level": 3})
    assert open_session(e).work.compressor.level == 3  # type: ignore[attr-defined]


def test_the_digest_of_the_data(session: MakeSession) -> None:
    """It is that of the shards: equal for equal data, whatever the method."""
    first, second = session(), session(algorithm={"name": "fedavg", "weights": "uniform"}, rounds=7)
    assert first.data_sha256 == second.data_sha256 == first.problem.shards.digest()
    assert first.data_sha256 != session(seed=5).data_sha256


def test_a_problem_at_hand(experiment: MakeExperiment, session: MakeSession) -> None:
    """A worker that was sent its data makes a session of the problem it has."""
    s = session()
    other = with_problem(experiment(), s.problem)
    assert other.problem is s.problem
    assert other.work == s.work


def test_the_server_s_step_replaced(experiment: MakeExperiment) -> None:
    """A theorem's number takes the place of "theory"; nothing else changes."""
    e = experiment(server={"optimizer": {"name": "sgd", "lr": 0.5, "momentum": 0.9}})
    changed = with_server_lr(e, 0.125)
    assert changed.server.optimizer.options == {"lr": 0.125, "momentum": 0.9}
    assert with_server_lr(changed, 0.5) == e
