"""The benchmark measures what it says: the same data, model and work on both sides."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import pytest
import torch

from benchmarks.bare import BareLoop
from benchmarks.ours import TreeMemory
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
