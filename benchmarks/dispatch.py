"""Tasks a second through the real dispatcher: cluster, remote executor, link, a worker's serving and its pool.

`python -m benchmarks.dispatch`. The tasks are real messages of real cohorts; only the clients' local work is left out
(a result made once is sent for every task), so what is measured is everything around it.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from dataclasses import dataclass, replace
from typing import Any

from fl_core.execution.cohort import CohortResult, CohortWork
from fl_core.execution.pool import DevicePool, Slot, parse_devices
from fl_core.execution.site import Site
from fl_core.experiment.schema import Experiment
from fl_core.session import Session, open_session
from master.cluster import Cluster
from master.remote_executor import RemoteExecutor
from protocol import messages
from protocol.fields import WorkerInfo
from protocol.link import Link
from protocol.transport import dial, listen
from worker.runs import Preparation, PreparedRun
from worker.serving import Serving


@dataclass(frozen=True)
class Dispatch:
    """Of one worker over loopback."""

    tasks_per_s: float
    round_trip_us: float


class _Site(Site):
    """Runs the first cohort; sends its result for all others."""

    _made: CohortResult | None = None

    def execute(self, slot: Slot, work: CohortWork) -> CohortResult:
        if self._made is None:
            made = super().execute(slot, work)
            self._made = replace(made, metrics=made.metrics | {"seconds_s": [1e-5]})  # as short as it is from now on
        return replace(self._made, clients=work.clients)


def _session() -> Session:
    tables = {
        "name": "dispatch",
        "rounds": 1,
        "data": {"name": "quadratic", "d": 20, "samples_per_client": 12},
        "model": {"name": "linear", "loss": "mse"},
        "clients": {"total": 10},
        "local": {"steps": 1, "gradient": "full"},
        "algorithm": {"name": "fedavg"},
        "evaluate": {"metrics": []},
    }
    return open_session(Experiment.from_dict(tables))


def measure(tasks: int, repeats: int, slots: int = 1) -> Dispatch:
    """The median over rounds of so many tasks of one client each; the round trip is that of a round of one task."""
    context = multiprocessing.get_context("spawn")
    ports: Any = context.Queue()
    worker = context.Process(target=_work, args=(ports, slots), daemon=True)
    worker.start()
    try:
        return asyncio.run(_drive(ports.get(timeout=60), tasks, repeats))
    finally:
        worker.terminate()
        worker.join()


def _work(ports: Any, slots: int) -> None:
    session, pool = _session(), DevicePool(parse_devices("cpu"), slots)

    def prepare(setup: messages.Setup) -> Preparation:
        return Preparation(PreparedRun(_Site(setup.run, session.problem, session.algorithm, session.work), True))

    async def on_link(link: Link) -> None:
        await Serving(link, pool, prepare).run()

    async def main() -> None:
        info = WorkerInfo("bench", "bench", 1, slots, ["cpu"], "2", "3", True)
        server = await listen("127.0.0.1", 0, info=lambda: info, on_link=on_link)
        ports.put(server.port)
        await asyncio.Event().wait()

    asyncio.run(main())


async def _drive(port: int, tasks: int, repeats: int) -> Dispatch:
    session = _session()
    cluster = Cluster(lambda event: None)
    link = await dial("127.0.0.1", port)
    executor = RemoteExecutor(cluster, link, "bench", 1)
    serving = asyncio.create_task(executor.serve())
    server = session.server()
    took, trips, number = [], [], 0
    try:
        cluster.open_run("r", session)
        cluster.join(executor)

        async def run(count: int) -> float:
            nonlocal number
            number += 1
            round = server.begin_round(number)
            works = [CohortWork(number, k, (k % 10,), {}, {}) for k in range(count)]
            before = time.perf_counter()
            await cluster.run_round("r", round, works)
            return time.perf_counter() - before

        await run(100)
        for _ in range(repeats):
            took.append(await run(tasks))
        for _ in range(500):
            trips.append(await run(1))
    finally:
        serving.cancel()
        await link.close("measured")
        await cluster.close()
    return Dispatch(tasks / statistics.median(took), 1e6 * statistics.median(trips))


def main() -> None:
    """Print what was found."""
    for slots in (1, 2):
        found = measure(5_000, 5, slots)
        print(f"{slots} slots: {found.tasks_per_s:,.0f} tasks/s, round trip {found.round_trip_us:.0f} µs", flush=True)


if __name__ == "__main__":
    main()
