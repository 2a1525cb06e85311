"""What runs on a GPU: near the CPU's numbers, its own bytes on every slot, and fused only where it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from fl_core.execution.choice import ChosenRunner, Fusing
from fl_core.execution.cohort import CohortResult, CohortRunner, CohortWork
from fl_core.execution.fused import FusedRunner
from fl_core.execution.pool import DevicePool
from fl_core.execution.site import Site
from fl_core.server import Round
from fl_core.session import Session

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")

MakeSession = Callable[..., Session]
MakeLoop = Callable[..., Any]
METHODS = ("fedavg", "scaffold", "diana", "ef21", "marina")


@pytest.fixture
def make(session: MakeSession) -> Callable[[str], Session]:
    """Least squares in float64, twelve clients in one cohort."""

    def made(name: str) -> Session:
        return session(
            data={"name": "quadratic", "d": 8, "samples_per_client": 12},
            model={"name": "linear", "loss": "mse", "dtype": "float64"},
            clients={"total": 12},
            local={"steps": 1, "gradient": "full", "optimizer": {"name": "sgd", "lr": 0.1}},
            algorithm={"name": name},
            execution={"cohort": 12},
        )

    return made


@pytest.fixture
def pool() -> Iterator[DevicePool]:
    """Two slots, each with its stream, on the first GPU."""
    pool = DevicePool([torch.device("cuda", 0)], 2)
    yield pool
    pool.close()


def runner_on_gpu(s: Session) -> CohortRunner:
    """Client by client."""
    return CohortRunner(s.problem, s.algorithm, s.work, torch.device("cuda", 0), s.user_files())


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """To 1e-9 of the larger, as float64 on two kinds of device agrees."""
    return float((a - b).norm()) <= 1e-9 * float(a.norm())


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_the_cpu_s_numbers(make: Callable[[str], Session], loop: MakeLoop, name: str, fused: bool) -> None:
    """Client by client and fused, after three rounds."""
    expected = loop(make(name)).run(3).x
    s = make(name)
    found, alone = loop(s), runner_on_gpu(s)
    runner = FusedRunner(alone) if fused else alone
    found.execute = lambda round, work: runner.run(round.broadcast, work)
    assert close(expected, found.run(3).x)


def test_every_slot_gives_the_same_bytes(make: Callable[[str], Session], loop: MakeLoop, pool: DevicePool) -> None:
    """Streams side by side do not disturb each other."""
    s = make("scaffold")
    site = Site("r", s.problem, s.algorithm, s.work, s.user_files())

    def execute(round: Round, work: CohortWork) -> CohortResult:
        if not site.has_round(round.number):
            site.receive(round.broadcast)
        results = [job.result() for job in [pool.submit(lambda slot: site.execute(slot, work)) for _ in range(8)]]
        assert all(torch.equal(results[0].dense[name], other.dense[name]) for other in results for name in other.dense)
        return results[0]

    made = loop(s)
    made.execute = execute
    made.run(3)


@pytest.mark.parametrize(("fuse", "is_fused"), [("auto", False), ("always", True)])
def test_nothing_is_fused_unless_it_is_asked_for(
    make: Callable[[str], Session], loop: MakeLoop, fuse: Any, is_fused: bool
) -> None:
    """Batched kernels round otherwise there, so a clock must not choose between them."""
    s = make("fedavg")
    fusing = Fusing(fuse)
    chosen = ChosenRunner(runner_on_gpu(s), fusing)
    made = loop(s)
    made.execute = lambda round, work: chosen.run(round.broadcast, work)
    made.run(3)
    assert (fusing.reason is None) is is_fused
