"""What a worker tells Prometheus (`--metrics-port`)."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.metrics_endpoint import Sample
from protocol.fields import WorkerInfo


def samples(info: WorkerInfo) -> Iterator[Sample]:
    """The numbers in what the worker says of itself at this moment."""
    devices = {"devices": ",".join(info.devices), "version": info.version, "torch": info.torch}
    yield Sample("flworker_info", "What this worker is.", 1, devices)
    yield Sample("flworker_slots", "Tasks it can run at a time.", info.slots)
    yield Sample("flworker_busy", "Tasks it holds: running, or waiting for a slot.", info.busy)
    yield Sample("flworker_tasks", "Tasks it has finished.", info.tasks, kind="counter")
    yield Sample("flworker_uptime_seconds", "Since its start.", info.uptime_s)
    for state in ("idle", "serving", "draining"):
        yield Sample("flworker_state", "1 for the state it is in.", info.state == state, {"state": state})
