"""Fused or not: what cannot be fused runs client by client with one reason, and never shows in a result."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch

from fl_core.errors import UserCodeError
from fl_core.execution import choice
from fl_core.execution.audit import difference_of
from fl_core.execution.choice import ChosenRunner, Fusing, shortest
from fl_core.execution.cohort import CohortResult, CohortWork
from fl_core.execution.fused import FusedRunner
from fl_core.server import Broadcast, Round
from fl_core.session import Session

METHOD = """
import random
from dataclasses import dataclass

import torch

from fl_core import Message, State, zeros
from algorithms.fedavg import FedAvg

CALLS = []

@dataclass(frozen=True)
class Mine(FedAvg):
    class Memory(State):
        v: torch.Tensor = zeros()
        n: int = 0

    {body}
"""

FALLBACKS = {
    "a branch on a tensor": (
        "def local_gradient(self, client, x, s):\n        g = client.gradient(x)\n"
        "        return g / g.norm() if g.norm() > 1e-3 else g",
        "__bool__",
    ),
    "an operation that fails for many": (
        "def local_gradient(self, client, x, s):\n        g = client.gradient(x)\n"
        "        return torch.fft.irfft(torch.fft.rfft(g), n=len(g))",
        '"fft_rfft" cannot be done for many clients at once (',
    ),
    "item": (
        "def local_gradient(self, client, x, s):\n        g = client.gradient(x)\n        return g * g.norm().item()",
        "item",
    ),
    "float": (
        "def client_opt(self, client, x, g):\n        return x - g / (1.0 + float(g.abs().max()))",
        "__float__",
    ),
    "the client's number": (
        "def local_gradient(self, client, x, s):\n        return client.gradient(x) * (1.0 + client.id)",
        "client.id",
    ),
    "its samples": (
        "def local_gradient(self, client, x, s):\n        return client.gradient(x) * client.inputs.shape[0]",
        "samples",
    ),
    "its generator": (
        "def local_gradient(self, client, x, s):\n"
        "        return client.gradient(x) + 0.01 * torch.randn(x.shape, generator=client.generator('noise'))",
        "client.generator",
    ),
    "a shape that depends on the numbers": (
        "def local_gradient(self, client, x, s):\n        g = client.gradient(x)\n        return g * g[g > 0].sum()",
        "",
    ),
    "numpy": (
        "def local_gradient(self, client, x, s):\n        return torch.from_numpy(client.gradient(x).numpy() * 2)",
        "",
    ),
    "its message's bytes": (
        "def local_state(self, client, x0, x, s):\n        m = client.compress(x - x0)\n"
        "        client.memory.n = int(m.payload.nbytes)\n        return self.Reply(delta=m)",
        "bytes",
    ),
    "randomness of its own": (
        "def local_gradient(self, client, x, s):\n"
        "        return client.gradient(x) + 0.01 * torch.empty_like(x).normal_()",
        "randomness",
    ),
    "a loop over a number of its own": (
        "def local_gradient(self, client, x, s):\n        g = client.gradient(x)\n"
        "        for _ in range(int(g.abs().argmax())):\n            g = g / 2\n        return g",
        "",
    ),
    "something that changes from call to call": (
        "def local_gradient(self, client, x, s):\n        CALLS.append(1)\n"
        "        return client.gradient(x) * len(CALLS)",
        "is not what it is client by client",
    ),
}


class Both:
    """Runs a session's cohorts through the choice, and client by client beside it."""

    def __init__(self, loop: Any, fuse: choice.Fuse = "always", decided: choice.Decision | None = None) -> None:
        self.loop, self.fusing = loop, Fusing(fuse, decided)
        self.chosen = ChosenRunner(loop.runner, self.fusing)
        self.differences: list[str | None] = []

    def __call__(self, round: Round, work: CohortWork) -> CohortResult:
        found = self.chosen.run(round.broadcast, work)
        self.differences.append(difference_of(self.loop.runner.run(round.broadcast, work), found))
        return found


@pytest.fixture
def mine(session: Callable[..., Session], loop: Any) -> Callable[..., Any]:
    """The round loop of a method with this body, on so many clients in one cohort, with the choice in it."""

    def make(body: str, fuse: choice.Fuse = "always", decided: choice.Decision | None = None, clients: int = 8) -> Any:
        made = session(
            {("algorithm", "mine.py"): METHOD.format(body=body)},
            algorithm={"name": "mine.py"},
            clients={"total": clients},
            execution={"cohort": clients},
        )
        rounds = loop(made)
        rounds.execute = Both(rounds, fuse, decided)
        return rounds

    return make


@pytest.mark.parametrize("case", [case for case in FALLBACKS if "call to call" not in case])
def test_what_cannot_be_fused_runs_client_by_client(mine: Any, caplog: pytest.LogCaptureFixture, case: str) -> None:
    """The same numbers, and one line that says why."""
    body, reason = FALLBACKS[case]
    rounds = mine(body)
    with caplog.at_level(logging.WARNING, "flspan.execution"):
        rounds.run(3)
    assert rounds.execute.differences == [None] * 3
    said = [record.getMessage() for record in caplog.records if record.name == "flspan.execution"]
    assert len(said) == 1
    assert said[0].startswith("clients run one by one: ")
    assert reason in said[0]


def test_a_side_effect_is_found_by_comparing(mine: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What changes from call to call gives other numbers once for many; they are seen, and not used."""
    rounds = mine(FALLBACKS["something that changes from call to call"][0])
    with caplog.at_level(logging.WARNING, "flspan.execution"):
        rounds.run(1)
    assert "is not what it is client by client" in (rounds.execute.fusing.reason or "")


FUSED = {
    "norms and products": "def local_gradient(self, client, x, s):\n        g = client.gradient(x)\n"
    "        return g / torch.maximum(g.norm(), torch.dot(g, g) / 3)",
    "writes in place": "def local_gradient(self, client, x, s):\n        g = client.gradient(x)\n"
    "        client.memory.v += g\n        return g.add_(client.memory.v, alpha=0.1)",
    "a number in the memory": "def local_state(self, client, x0, x, s):\n        client.memory.n += 1\n"
    "        return self.Reply(delta=client.compress((x - x0) / client.memory.n))",
    "top-k by hand": "def local_state(self, client, x0, x, s):\n        d = x - x0\n"
    "        kept = torch.zeros_like(d).scatter(0, d.abs().topk(2).indices, 1.0)\n"
    "        client.memory.v = client.memory.v + d * (1 - kept)\n"
    "        return self.Reply(delta=client.compress(d * kept))",
    "its loss": "def local_state(self, client, x0, x, s):\n"
    "        return self.Reply(delta=client.compress((x - x0) / (1 + client.loss(x))))",
    "noise": "def local_gradient(self, client, x, s):\n        return client.gradient(x) + 0.1 * torch.randn_like(x)",
}


@pytest.mark.parametrize("case", FUSED)
def test_what_can_be_fused_is(mine: Any, case: str) -> None:
    """Ordinary code for one client is fused, with the same bytes."""
    rounds = mine(FUSED[case])
    rounds.run(3)
    assert rounds.execute.differences == [None] * 3
    assert rounds.execute.fusing.reason is None


def test_an_error_in_her_code_says_which_client(mine: Any) -> None:
    """The fused run never hides for whom it failed."""
    body = "def local_state(self, client, x0, x, s):\n        raise ValueError('no')"
    with pytest.raises(UserCodeError) as caught:
        mine(body).run(1)
    assert caught.value.client == 0


def test_never_is_never(mine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """fuse = "never" does not even try."""
    rounds = mine("pass", "never")
    monkeypatch.setattr(choice, "FusedRunner", None)
    rounds.run(1)
    assert rounds.execute.differences == [None]


def test_small_cohorts_run_client_by_client(session: Any, loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer than seven clients gain nothing, so nothing is tried."""
    rounds = loop(session(clients={"total": 6}, execution={"cohort": 6}))
    rounds.execute = Both(rounds, "auto")
    monkeypatch.setattr(choice, "FusedRunner", None)
    rounds.run(1)
    assert rounds.execute.differences == [None]


def test_audits_are_rare_once_one_has_passed() -> None:
    """The 1st cohort whole, and every one until it has passed; then a few clients of the 10th, the 100th, …"""
    fusing = Fusing("always")
    assert [fusing.due_audit(30) for _ in range(3)] == [slice(0, 30)] * 3
    fusing.passed()
    found = {number: fusing.due_audit(30) for number in range(4, 1200)}
    due = {number: rows for number, rows in found.items() if rows is not None}
    assert list(due) == [10, 100, 1000]
    assert all(rows.stop - rows.start == 16 for rows in due.values())


LATE = """def local_gradient(self, client, x, s):
        if client.round >= 10:
            CALLS.append(1)
        return client.gradient(x) * (1 + len(CALLS))"""


def test_a_late_difference_is_found_and_not_used(mine: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The 10th cohort is the first that goes wrong: it is seen, and run client by client from there on."""
    rounds = mine(LATE, clients=40)
    one_by_one, sizes = rounds.execute.chosen._sequential, []
    run = one_by_one.run

    def counted(broadcast: Broadcast, work: CohortWork) -> CohortResult:
        sizes.append(len(work.clients))
        found: CohortResult = run(broadcast, work)
        return found

    one_by_one.run = counted
    rounds.run(9)
    assert rounds.execute.fusing.reason is None
    with caplog.at_level(logging.WARNING, "flspan.execution"):
        rounds.run(1, first=10)
    assert "fused, Reply.delta is not what it is client by client" in (rounds.execute.fusing.reason or "")
    audited = sizes.index(16)
    assert sizes[audited + 1] == 40  # what counts of that cohort
    assert 16 not in sizes[:audited]


def test_the_global_generator_is_left_alone(mine: Any, global_generator_untouched: None) -> None:
    """Trying kernels draws random numbers of its own: a slot that watches the global generator sees nothing."""
    mine(FUSED["norms and products"]).run(2)
    assert torch.get_rng_state() is not None


def test_a_decision_is_timed_once_and_handed_on(mine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one process has decided, with its times, another takes over: it times nothing, whatever it would find."""
    rounds = mine(FUSED["norms and products"], "auto")
    assert rounds.execute.fusing.decision() is None
    rounds.run(2)
    decided = rounds.execute.fusing.decision()
    assert decided is not None
    assert min(decided["fused_s"], decided["one_by_one_s"]) > 0
    assert json.loads(json.dumps(decided)) == decided
    monkeypatch.setattr(ChosenRunner, "_time", None)
    monkeypatch.setattr(ChosenRunner, "_is_long", None)
    for fused in (True, False):
        again = mine(FUSED["norms and products"], "auto", {**decided, "fused": fused})
        again.run(2)
        assert again.execute.differences == [None] * 2
        assert again.execute.fusing.decision() == {**decided, "fused": fused}
        assert (again.execute.fusing.reason is None) is fused


class Crowded(FusedRunner):
    """Runs fused while threads beside it keep the interpreter busy; `wall_s` is how long each cohort took so."""

    wall_s: ClassVar[list[float]] = []

    def run(self, broadcast: Broadcast, work: CohortWork) -> CohortResult:
        over = threading.Event()

        def be_busy() -> None:
            while not over.is_set():
                sum(range(1000))

        crowd = [threading.Thread(target=be_busy) for _ in range(3)]
        for thread in crowd:
            thread.start()
        started = time.perf_counter()
        try:
            return super().run(broadcast, work)
        finally:
            self.wall_s.append(time.perf_counter() - started)
            over.set()
            for thread in crowd:
                thread.join()


def test_a_busy_machine_does_not_decide(mine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours make fused cohorts take longer than one by one takes alone: the choice is that of a quiet machine."""
    Crowded.wall_s.clear()
    monkeypatch.setattr(choice, "FusedRunner", Crowded)
    rounds = mine(FUSED["norms and products"], "auto", clients=200)
    rounds.run(1)
    decided = rounds.execute.fusing.decision()
    assert decided is not None
    assert Crowded.wall_s[0] > decided["one_by_one_s"] > decided["fused_s"] > 0
    assert decided["fused"]


@pytest.mark.parametrize(
    ("first_s", "fused_s", "one_by_one_s", "found_s"),
    [
        ((20.0, 30.0), [1.0], [21.0], (1.0, 21.0)),  # a second look at one by one makes fused's first time lose
        ((20.0, 30.0), [19.0, 20.0, 21.0], [21.0], (19.0, 21.0)),
        ((20.0, 30.0), [], [25.0, 29.0, 31.0], (20.0, 25.0)),
        ((30.0, 20.0), [12.0, 12.5, 12.7], [14.0, 13.0], (12.0, 13.0)),
        ((1.0, 20.0), [], [], (1.0, 20.0)),
        ((50.0, 20.0), [30.0, 40.0, 60.0], [], (30.0, 20.0)),
    ],
)
def test_what_seems_to_lose_is_timed_again(
    first_s: tuple[float, float], fused_s: list[float], one_by_one_s: list[float], found_s: tuple[float, float]
) -> None:
    """Whichever way that is by then: a first time, or one time of a busy moment, does not decide."""
    fused, alone = iter(fused_s), iter(one_by_one_s)
    assert shortest(*first_s, lambda: next(fused), lambda: next(alone)) == found_s
    assert (list(fused), list(alone)) == ([], []), "it is timed no less often than that"


@pytest.mark.parametrize("slow", ["fused", "one by one"])
def test_the_faster_way_is_chosen_for_good(slow: str) -> None:
    """The first slot that has timed a cohort decides; a later one that found otherwise changes nothing."""
    fusing = Fusing("auto")
    times = (2.0, 1.0) if slow == "fused" else (1.0, 2.0)
    fusing.decide(times[0] < times[1], *times)
    fusing.decide(times[0] > times[1], times[1], times[0])
    decided = fusing.decision()
    assert decided is not None
    assert (decided["fused"], decided["fused_s"]) == (slow != "fused", times[0])
    assert (fusing.reason is None) is (slow != "fused")


def test_a_decision_says_when_a_cohort_could_not_be_fused(mine: Any) -> None:
    """Falling back later on is recorded too, with its reason."""
    rounds = mine(FALLBACKS["item"][0], "auto")
    rounds.run(1)
    decided = rounds.execute.fusing.decision()
    assert decided is not None
    assert not decided["fused"]
    assert decided["reason"] == rounds.execute.fusing.reason


def test_never_and_always_come_before_what_was_decided() -> None:
    """The experiment's own word counts, not what another run of it found."""
    no = choice.Decision(fused=False, reason="slow", fused_s=2.0, one_by_one_s=1.0)
    yes = choice.Decision(fused=True, reason="fast", fused_s=1.0, one_by_one_s=2.0)
    assert Fusing("always", no).reason is None
    assert Fusing("never", yes).reason == 'fuse = "never"'
    assert Fusing("auto", no).reason == "slow"


def test_long_operations_are_not_tried(mine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one client's operations take long, as in large convolutions, no cohort is run fused even once."""
    monkeypatch.setattr(choice, "_LONG_OPERATION_S", 1e-9)
    monkeypatch.setattr(choice, "FusedRunner", None)
    rounds = mine("pass", "auto")
    rounds.run(2)
    assert rounds.execute.differences == [None] * 2
    assert (rounds.execute.fusing.reason or "").startswith("an operation takes")
