"""A site: one run's broadcasts and replicas in one process, on any number of threads."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
import torch

from fl_core.errors import RunError
from fl_core.execution.cohort import CohortResult, CohortWork
from fl_core.execution.gpu_memory import lacks_memory
from fl_core.execution.pool import DevicePool, Slot
from fl_core.execution.site import Site
from fl_core.reference import run_reference
from fl_core.server import Broadcast, Round
from fl_core.session import Session

MakeSession = Callable[..., Session]
MakeLoop = Callable[..., Any]
CPU = torch.device("cpu")
METHOD = """\
from dataclasses import dataclass
import torch
from torch import Tensor
from fl_core import zeros
from algorithms.fedavg import FedAvg

@dataclass(frozen=True)
class Mine(FedAvg):
    class Memory:
        h: Tensor = zeros()

    def local_state(self, client, x0, x, s):
        message = client.compress(client.pseudo_gradient(x0, x) - client.memory.h)
        client.memory.h = client.memory.h + message.value
        return self.Reply(message)
"""
MODEL = """\
import torch

def build(*, inputs, outputs):
    return torch.nn.Sequential(
        torch.nn.Linear(inputs[0], 4), torch.nn.Dropout(0.4), torch.nn.ReLU(), torch.nn.Linear(4, outputs)
    )
"""


def stochastic(session: MakeSession, **changes: Any) -> Session:
    """A stateful method, a model with dropout, a random compressor, twelve clients one a cohort."""
    return session(
        {("algorithm", "mine.py"): METHOD, ("model", "net.py"): MODEL},
        algorithm={"name": "mine.py"},
        model={"name": "net.py", "loss": "mse", "dtype": "float32"},
        clients={"total": 12, "per_round": 8},
        uplink={"name": "randk", "k": "40%"},
        rounds=4,
        **changes,
    )


def site(s: Session) -> Site:
    """The session's run in this process."""
    return Site("run", s.problem, s.algorithm, s.work, s.user_files())


def by_pool(s: Session, loop: MakeLoop, threads: int, backwards: bool) -> torch.Tensor:
    """The final x by a pool of threads; a round's tasks are submitted in order or backwards."""
    pool, here = DevicePool([CPU], threads), site(s)
    made = loop(s)
    for number in range(1, s.experiment.rounds + 1):
        round, works = made.begin(number)
        here.receive(round.broadcast)
        futures: dict[int, Future[CohortResult]] = {}
        for work in reversed(works) if backwards else works:
            futures[work.index] = pool.submit(lambda slot, w=work: here.execute(slot, w))  # type: ignore[misc]
        made.finish(round, [futures[work.index].result(60) for work in works])
    pool.close()
    x: torch.Tensor = made.server.x
    return x


@pytest.mark.parametrize("cohort", [1, 3])
def test_one_thread_or_four_give_the_reference_s_bytes(session: MakeSession, loop: MakeLoop, cohort: int) -> None:
    """Dropout, memory and a random compressor; tasks in any order on any number of threads: the same model."""
    s = stochastic(session, execution={"cohort": cohort})
    expected = list(run_reference(s))[-1][0].x
    torch.manual_seed(123)
    for threads, backwards in ((1, False), (4, False), (4, True)):
        assert torch.equal(by_pool(s, loop, threads, backwards), expected)


def test_the_cut_into_cohorts_is_the_experiment_s(session: MakeSession) -> None:
    """Another cohort size is another order of summation: it may round differently, but no more than that."""
    one, three = (list(run_reference(stochastic(session, execution={"cohort": k})))[-1][0].x for k in (1, 3))
    assert torch.allclose(one, three, rtol=1e-4, atol=1e-5)


def test_one_broadcast_is_kept(session: MakeSession) -> None:
    """The present round's; that there was one before is known, for a task that comes late, but it is let go."""
    here = site(session())
    kept: list[weakref.ref[Broadcast]] = []
    for t in range(1, 6):
        sent = Broadcast(t, torch.full((6,), float(t), dtype=torch.float64), {})
        kept.append(weakref.ref(sent))
        here.receive(sent)
        del sent
        assert [here.has_round(r) for r in (t - 2, t - 1, t, t + 1)] == [False, t > 1, True, False]
        assert [each() is not None for each in kept] == [False] * (t - 1) + [True]


def test_a_late_task_of_the_round_before(session: MakeSession, loop: MakeLoop) -> None:
    """A task that runs holds what its own round sent; one that starts later is refused: nobody waits for it."""
    s = session()
    here, made, slot = site(s), loop(s), Slot(CPU)
    first, works = made.begin(1)
    here.receive(first.broadcast)
    expected = here.execute(slot, works[0])
    here.receive(Broadcast(2, first.broadcast.x + 1, {}))
    with pytest.raises(RunError, match="round 1 is over"):
        here.execute(slot, works[0])
    later = here.execute(slot, CohortWork(2, 0, works[0].clients, {}, {}))
    assert later.coded["delta"].payload.tobytes() != expected.coded["delta"].payload.tobytes()


def test_a_round_received_again_replaces_the_first(session: MakeSession) -> None:
    """A run that begins anew under the same name is not served what the old one sent."""
    s = session()
    here, slot = site(s), Slot(CPU)
    x = s.problem.x0
    found = []
    for start in (x, x + 1, x):
        here.receive(Broadcast(1, start, {}))
        found.append(here.execute(slot, CohortWork(1, 0, (0, 1), {}, {})).coded["delta"].payload.tobytes())
    assert found[0] == found[2] != found[1]


def test_a_slot_has_one_replica_a_run(session: MakeSession, loop: MakeLoop) -> None:
    """Cohort after cohort it is used again; another run has its own."""
    s = session()
    slot, here = Slot(CPU), site(s)
    round: Round
    round, works = loop(s).begin(1)
    here.receive(round.broadcast)
    here.execute(slot, works[0])
    first = slot.replicas["run"]
    here.execute(slot, works[1])
    assert slot.replicas == {"run": first}
    other = Site("other", s.problem, s.algorithm, s.work)
    other.receive(round.broadcast)
    other.execute(slot, works[0])
    assert slot.replicas["run"] is first is not slot.replicas["other"]


COUNTING = """\
from dataclasses import dataclass
import torch
from algorithms.fedavg import FedAvg
from fl_core import State

@dataclass(frozen=True)
class Counting(FedAvg):
    class Reply(FedAvg.Reply):
        threads: int

    def local_state(self, client, x0, x, s):
        return self.Reply(delta=client.compress(x - x0), threads=torch.get_num_threads())

    def server_gradient(self, server, replies):
        assert {int(reply.threads) for reply in replies} == {2}
        return super().server_gradient(server, replies)
"""


def test_the_experiment_says_how_many_threads_an_operation_has(session: MakeSession, loop: MakeLoop) -> None:
    """`[execution] intra_op_threads` holds where clients run: in a pool and in the reference."""
    before = torch.get_num_threads()
    files = {("algorithm", "counting.py"): COUNTING}
    s = session(files, algorithm={"name": "counting.py"}, execution={"intra_op_threads": 2, "fuse": "never"})
    try:
        expected = list(run_reference(s))[-1][0].x
    finally:
        torch.set_num_threads(before)
    assert torch.equal(by_pool(s, loop, 2, False), expected)


HUNGRY = """\
from dataclasses import dataclass
import torch
from algorithms.fedavg import FedAvg

@dataclass(frozen=True)
class Hungry(FedAvg):
    def local_gradient(self, client, x, s):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
"""


@pytest.mark.parametrize("fuse", ["never", "always"])
def test_a_gpu_without_memory_is_no_fault_of_her_code(session: MakeSession, fuse: str) -> None:
    """Nor of a client, whom `on_error = "skip"` would leave out: the error says what to make smaller."""
    tables = {"execution": {"fuse": fuse, "cohort": 8}, "on_error": "skip", "clients": {"total": 8, "per_round": 8}}
    hungry = session({("algorithm", "hungry.py"): HUNGRY}, algorithm={"name": "hungry.py"}, **tables)
    site = Site("r", hungry.problem, hungry.algorithm, hungry.work)
    round = hungry.server().begin_round(1)
    site.receive(round.broadcast)
    told = (
        r"a task of 8 clients finds no memory left on cpu: CUDA out of memory\..*; take a smaller \[execution\] cohort"
    )
    with pytest.raises(RunError, match=told) as raised:
        site.execute(Slot(CPU), CohortWork(1, 0, round.cohorts[0], {}, {}))
    assert lacks_memory(raised.value)
