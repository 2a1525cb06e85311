"""What runs on a GPU: near the CPU's numbers, its own bytes on every slot, and fused only where it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import torch

from compressors.build import build, names, operator_in
from compressors.compressor import Layout
from fl_core.execution.audit import difference_of
from fl_core.execution.cohort import CohortResult, CohortWork, decode
from fl_core.execution.kernels import same_bits
from fl_core.execution.pool import DevicePool, Slot
from fl_core.execution.site import Site
from fl_core.replies import FieldSums
from fl_core.server import Round
from fl_core.session import Session
from fl_core.state import fields_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")

MakeSession = Callable[..., Session]
MakeLoop = Callable[..., Any]
Make = Callable[..., Session]
GPU = torch.device("cuda", 0)
METHODS = ("fedavg", "scaffold", "diana", "ef21", "marina")


@pytest.fixture
def make(session: MakeSession) -> Make:
    """Least squares in float64, twelve clients in one cohort."""

    def made(name: str, fuse: str = "never") -> Session:
        return session(
            data={"name": "quadratic", "d": 8, "samples_per_client": 12},
            model={"name": "linear", "loss": "mse", "dtype": "float64"},
            clients={"total": 12},
            local={"steps": 1, "gradient": "full", "optimizer": {"name": "sgd", "lr": 0.1}},
            algorithm={"name": name},
            execution={"cohort": 12, "fuse": fuse},
        )

    return made


@pytest.fixture
def pool() -> Iterator[DevicePool]:
    """Two slots, each with its stream, on the first GPU."""
    pool = DevicePool([GPU], 2)
    yield pool
    pool.close()


Execute = Callable[[Round, CohortWork], CohortResult]


def executed_by(pool: DevicePool, s: Session) -> tuple[Execute, Site]:
    """Runs cohorts on the pool, as a worker does."""
    site = Site("r", s.problem, s.algorithm, s.work, s.user_files())

    def execute(round: Round, work: CohortWork) -> CohortResult:
        if not site.has_round(round.number):
            site.receive(round.broadcast)
        return pool.submit(lambda slot: site.execute(slot, work)).result(100)

    return execute, site


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """To 1e-9 of the larger, as float64 on two kinds of device agrees."""
    return float((a - b).norm()) <= 1e-9 * float(a.norm())


@pytest.mark.parametrize("fuse", ["never", "always"])
@pytest.mark.parametrize("name", METHODS)
def test_the_cpu_s_numbers(make: Make, loop: MakeLoop, pool: DevicePool, name: str, fuse: str) -> None:
    """Client by client and fused, after three rounds."""
    expected = loop(make(name)).run(3).x
    s = make(name, fuse)
    found = loop(s)
    found.execute, _ = executed_by(pool, s)
    assert close(expected, found.run(3).x)


def test_every_slot_gives_the_same_bytes(make: Make, loop: MakeLoop, pool: DevicePool) -> None:
    """Streams side by side do not disturb each other."""
    s = make("scaffold")
    _, site = executed_by(pool, s)

    def execute(round: Round, work: CohortWork) -> CohortResult:
        site.receive(round.broadcast)
        results = [job.result() for job in [pool.submit(lambda slot: site.execute(slot, work)) for _ in range(8)]]
        assert all(difference_of(results[0], other) is None for other in results)
        return results[0]

    made = loop(s)
    made.execute = execute
    made.run(3)


def test_sums_have_the_bytes_of_the_rows(make: Make, loop: MakeLoop, pool: DevicePool) -> None:
    """They are added up on the GPU, client after client, as the master adds the rows up."""
    s = make("fedavg")
    execute, _ = executed_by(pool, s)
    round, (work,) = loop(s).begin(1)
    (name,) = fields_of(s.algorithm.Reply)
    rows = decode(execute(round, work), 1, s.work, s.layout).fields[name]
    found = execute(round, replace(work, asked={name: ("one", "size")})).sums[name]
    expected = FieldSums.of_rows(rows, [12.0] * len(rows), ("one", "size"))
    assert all(torch.equal(found.totals[kind], expected.totals[kind]) for kind in expected.totals)


@pytest.mark.parametrize(("fuse", "is_fused"), [("auto", False), ("always", True)])
def test_nothing_is_fused_unless_it_is_asked_for(
    make: Make, loop: MakeLoop, pool: DevicePool, fuse: str, is_fused: bool
) -> None:
    """Batched kernels round otherwise there, so a clock must not choose between them."""
    s = make("fedavg", fuse)
    made = loop(s)
    made.execute, site = executed_by(pool, s)
    made.run(3)
    assert (site.fusing.reason is None) is is_fused


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", names())
def test_a_message_s_value_is_what_the_master_decodes(name: str, dtype: torch.dtype) -> None:
    """Bit for bit, on its CPU: what a client remembers of its message is what the server knows."""
    operator = operator_in(import_module(f"compressors.{name.replace('-', '_')}"))
    assert operator is not None
    x = torch.randn(2, 300, generator=torch.Generator().manual_seed(1)).to(dtype)
    for options in operator.examples:
        compressor = build(name, options)
        sent = compressor.encode(x.to(GPU), [torch.Generator().manual_seed(g) for g in range(2)])
        sources = [torch.Generator().manual_seed(g) for g in range(2)]
        received = compressor.decode(sent.payload, sent.sizes, Layout(300, dtype), sources)
        assert same_bits(sent.value.cpu(), received), options


def test_slots_open_as_memory_allows(pool: DevicePool) -> None:
    """A task that wants more than half of what is free finds it, whatever runs beside it: alone, or again."""
    free, _ = torch.cuda.mem_get_info(GPU)

    def greedy(slot: Slot) -> int:
        with slot.active():
            return torch.ones(int(0.6 * free), dtype=torch.uint8, device=slot.device)[-1].item()  # type: ignore[return-value]

    assert [job.result(100) for job in [pool.submit(greedy) for _ in range(6)]] == [1] * 6


def test_a_task_s_error_leaves_the_slot_usable(pool: DevicePool) -> None:
    """What it had begun is waited for; the next task computes."""

    def failing(slot: Slot) -> None:
        with slot.active():
            torch.ones(1000, 1000, device=slot.device) @ torch.ones(999, 1, device=slot.device)

    def well(slot: Slot) -> float:
        with slot.active():
            return float(torch.ones(1000, device=slot.device).sum())

    assert isinstance(pool.submit(failing).exception(100), RuntimeError)
    assert pool.submit(well).result(100) == 1000
