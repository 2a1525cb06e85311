"""The benchmark measures what it says: the same data, model and work on both sides."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import pytest
import torch

from benchmarks.bare import BareLoop, BareProcess, rate
from benchmarks.ours import ROOT, TreeMemory, own_s
from benchmarks.workloads import WORKLOADS
from fl_core.execution.cohort import CohortRunner, CohortWork, decode
from fl_core.experiment.reading import read_experiments
from fl_core.session import open_session


@pytest.mark.parametrize("name", ["Q100", "L"])
def test_the_bare_loop_does_the_work_of_a_client(tmp_path: Path, name: str) -> None:
    """With all samples in one full batch, the client by hand moves x exactly where ours does."""
    workload = WORKLOADS[name]
    session = open_session(read_experiments(workload.write(tmp_path, 1, cohort=3), ("local.gradient=full",))[0])
    runner = CohortRunner(session.problem, session.algorithm, session.work, torch.device("cpu"))
    round = session.server().begin_round(1)
    clients = round.cohorts[0]
    result = runner.run(round.broadcast, CohortWork(1, 0, clients, {}, {}))
    moved = decode(result, 1, session.work, session.layout).fields["delta"]
    full = BareLoop(dataclasses.replace(workload, batch=workload.samples))
    for row, i in enumerate(clients):
        full.flat.copy_(round.broadcast.x)
        full.client(full.inputs[i], full.targets[i])
        torch.testing.assert_close(full.flat - round.broadcast.x, moved[row], rtol=1e-4, atol=1e-6)


def test_the_memory_of_a_tree_counts_this_process() -> None:
    """At least what this process has of its own."""
    watch = TreeMemory(os.getpid())
    deadline = time.monotonic() + 20
    while watch.peak == 0 and time.monotonic() < deadline:
        os.sched_yield()
    assert watch.stop() > 50_000_000


def test_the_bare_loop_counts_the_clients_it_ran() -> None:
    """Its rate is clients over time, also where a whole round would take too long: ten times as long is no faster."""
    loop = BareLoop(WORKLOADS["Q100"])
    ran: list[int] = []
    client = loop.client

    def counted(inputs: torch.Tensor, targets: torch.Tensor) -> None:
        ran.append(1)
        client(inputs, targets)

    loop.client = counted  # type: ignore[method-assign]
    started = time.perf_counter()
    found = rate(loop, 0.2)
    took_s = time.perf_counter() - started
    assert (len(ran) - 1) / took_s <= found <= 1.5 * len(ran) / 0.2


def test_a_bare_process_waits_between_measurements() -> None:
    """It is asked twice, and is gone afterwards."""
    with BareProcess(WORKLOADS["Q100"], ROOT) as bare:
        assert bare.rate(0.05) > 0
        assert bare.rate(0.05) > 0
        assert bare.peak_bytes > 50_000_000
    assert bare._process.returncode is not None


def test_what_a_round_costs_beside_its_tasks() -> None:
    """From end to end, without the time in which its tasks computed; the first round has no end before it."""
    events = [
        {"event": "TaskFinished", "seconds_s": 9.0},
        {"event": "RoundFinished", "time_s": 10.0},
        {"event": "RoundStarted", "time_s": 10.0},
        {"event": "TaskFinished", "seconds_s": 0.5},
        {"event": "TaskFinished", "seconds_s": 0.25},
        {"event": "RoundFinished", "time_s": 11.0},
        {"event": "RoundFinished", "time_s": 11.5},
    ]
    assert own_s(events) == [0.25, 0.5]
