"""Costs that no workload shows alone: a client run by itself, aggregation, what a round costs the loop."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.bare import BareLoop
from benchmarks.workloads import WORKLOADS


def best_s(function: Callable[[], object], seconds: float) -> float:
    """CPU seconds of the shortest of the calls that fit into a time: what else runs on the machine only ever adds."""
    function()
    best, started = float("inf"), time.perf_counter()
    while time.perf_counter() - started < seconds:
        before = time.thread_time()
        function()
        best = min(best, time.thread_time() - before)
    return best


def client_ms(seconds: float) -> float:
    """What running a client of L by itself costs beyond the bare loop's client."""
    torch.set_num_threads(1)
    from fl_core.execution.cohort import CohortRunner, CohortWork
    from fl_core.experiment.reading import read_experiments
    from fl_core.session import open_session

    workload = WORKLOADS["L"]
    with tempfile.TemporaryDirectory(prefix="flspan-bench-") as folder:
        session = open_session(read_experiments(workload.write(Path(folder), 1, cohort=20), ())[0])
    runner = CohortRunner(session.problem, session.algorithm, session.work, torch.device("cpu"))
    round = session.server().begin_round(1)
    work = CohortWork(1, 0, round.cohorts[0], {}, {})
    bare = BareLoop(workload)

    def by_hand() -> None:
        for i in work.clients:
            bare.flat.copy_(bare.x)
            bare.client(bare.inputs[i], bare.targets[i])

    ours = best_s(lambda: runner.run(round.broadcast, work), seconds)
    return 1000 * (ours - best_s(by_hand, seconds)) / len(work.clients)


def aggregation_ratio(seconds: float, d: int = 11_173_962, clients: int = 100) -> float:
    """Replies.mean over 100 replies of 11.2M floats, against one pass over the same memory.

    The cohorts share one block of 8 replies, as many as fit here; it is far larger than any cache.
    """
    from fl_core.replies import CohortReplies, Replies

    torch.set_num_threads(1)
    block = torch.randn(8, 1024).repeat(1, -(-d // 1024))[:, :d].contiguous()
    cohorts = [
        CohortReplies(tuple(range(k, min(k + 8, clients))), (1,) * min(8, clients - k), {"v": block[: clients - k]})
        for k in range(0, clients, 8)
    ]
    replies = Replies(cohorts, torch.zeros(d), None)

    def one_pass() -> None:
        for cohort in cohorts:
            cohort.fields["v"].view(-1).sum()

    return best_s(lambda: replies.mean("v"), seconds) / best_s(one_pass, seconds)
