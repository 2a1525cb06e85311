"""What the master tells Prometheus (`--metrics-port`): the present run, its metrics, its workers."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

from deploy.metrics_endpoint import Sample, serve_metrics
from master import events
from master.events import Event


class MetricsEndpoint:
    """An observer that answers over HTTP. Raises InputError: prometheus-client is missing, or the port is taken."""

    def __init__(self, host: str, port: int) -> None:
        self._lock = threading.Lock()  # events come on the loop, Prometheus in a thread of its own
        self._run: events.RunStarted | None = None
        self._round = 0
        self._metrics: dict[str, float] = {}
        self._workers: dict[str, events.WorkerStatus | None] = {}  # None: it is gone
        self._tasks: Counter[str] = Counter()
        self._counts: Counter[str] = Counter({"warnings": 0, "workers_lost": 0})
        self._ended: Counter[str] = Counter({"finished": 0, "stopped": 0, "failed": 0})
        self._stop = serve_metrics(host, port, self.samples)

    def observe(self, event: Event) -> None:
        """Take note."""
        with self._lock:
            self._note(event)

    def close(self) -> None:
        """Answer no more."""
        self._stop()

    def samples(self) -> Iterator[Sample]:
        """All numbers now. Metrics that were not measured are absent."""
        with self._lock:
            return iter([*self._of_run(), *self._of_workers()])

    def _note(self, event: Event) -> None:
        match event:
            case events.RunStarted():
                self._run, self._round, self._metrics = event, event.first_round - 1, {}
            case events.RoundFinished():
                self._round = event.round
                self._metrics |= event.metrics
            case events.Evaluated():
                self._metrics |= event.metrics
            case events.TaskFinished():
                self._tasks[event.executor] += 1
            case events.WorkerStatus():
                self._workers[event.name] = event
            case events.WorkerLost():
                self._workers[event.name] = None
                self._counts["workers_lost"] += 1
            case events.Warned():
                self._counts["warnings"] += 1
            case events.RunFinished():
                self._ended[event.reason] += 1
            case _:
                pass

    def _of_run(self) -> Iterator[Sample]:
        for reason, count in self._ended.items():
            yield Sample("flmaster_runs_ended", "Runs that ended so.", count, {"reason": reason}, "counter")
        for name, count in self._counts.items():
            yield Sample(f"flmaster_{name}", "Since the start of this daemon.", count, kind="counter")
        if self._run is None:
            return
        run = {"run": self._run.run}
        yield Sample("flmaster_round", "Rounds finished of the present run.", self._round, run)
        yield Sample("flmaster_rounds", "Rounds it has.", self._run.rounds, run)
        for name, value in self._metrics.items():
            yield Sample("flmaster_metric", "A metric of the run, last measured.", value, run | {"metric": name})

    def _of_workers(self) -> Iterator[Sample]:
        for name, count in self._tasks.items():
            yield Sample("flmaster_tasks", "Results that were counted.", count, {"worker": name}, "counter")
        for name, status in self._workers.items():
            worker = {"worker": name}
            yield Sample("flmaster_worker_up", "Whether it is there.", status is not None, worker)
            if status is None:
                continue
            yield Sample("flmaster_worker_slots", "Tasks it can run at a time.", status.slots, worker)
            yield Sample("flmaster_worker_busy", "Tasks it runs.", status.busy, worker)
            for way, carried in (("sent", status.sent_bytes), ("received", status.received_bytes)):
                if carried is not None:
                    labels = worker | {"way": way}
                    yield Sample("flmaster_worker_bytes", "On the wire.", carried, labels, "counter")
