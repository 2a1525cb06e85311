"""What Prometheus fetches, from both daemons."""

from __future__ import annotations

import socket
import urllib.request

import pytest

from deploy.metrics_endpoint import Sample, serve_metrics
from master import events
from master.observers.metrics_endpoint import MetricsEndpoint
from protocol.errors import InputError
from protocol.fields import WorkerInfo
from worker.metrics import samples

pytest.importorskip("prometheus_client", reason="the extra 'metrics' is not installed")
pytestmark = pytest.mark.net


def free_port() -> int:
    """One that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def fetched(port: int) -> str:
    """The page, as Prometheus reads it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def test_samples_are_read_at_each_fetch() -> None:
    """Labels and kinds are there, and the numbers of that moment."""
    counts = [0]

    def read() -> list[Sample]:
        counts[0] += 1
        return [Sample("fl_tasks", "Tasks.", counts[0], {"worker": w}, "counter") for w in ("a", "b")]

    port = free_port()
    stop = serve_metrics("127.0.0.1", port, read)
    try:
        before = counts[0]
        text = fetched(port)
        assert f'fl_tasks_total{{worker="a"}} {before + 1}.0' in text
        assert "# TYPE fl_tasks_total counter" in text
        assert f'fl_tasks_total{{worker="b"}} {before + 2}.0' in fetched(port)
    finally:
        stop()


def test_a_port_that_is_taken_is_said() -> None:
    """As the user's mistake."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{port}"):
            serve_metrics("127.0.0.1", port, list)


def test_a_worker_tells_its_load() -> None:
    """Slots, tasks held and done, and the one state it is in."""
    info = WorkerInfo("i", "w", 1, 4, ["cpu"], "2", "3", True, version="0.1", state="serving", busy=3, tasks=7)
    found = {(s.name, *s.labels.values()): s.value for s in samples(info) if s.name != "flworker_info"}
    assert found["flworker_slots",] == 4
    assert found["flworker_busy",] == 3
    assert found["flworker_tasks",] == 7
    assert [state for state in ("idle", "serving", "draining") if found["flworker_state", state]] == ["serving"]


def test_a_master_tells_its_run() -> None:
    """The round, the metrics last measured, results by worker, workers that are gone; none that nobody measured."""
    port = free_port()
    endpoint = MetricsEndpoint("127.0.0.1", port)
    started = {"run": "r", "name": "n", "algorithm": "fedavg", "digest": "", "folder": ""}
    counts = {"rounds": 9, "clients": 4, "per_round": 2, "d": 3, "seed": 1}
    endpoint.observe(events.RunStarted(time_s=0.0, **started, **counts))
    endpoint.observe(events.WorkerStatus(time_s=0.0, name="w:1", slots=2, busy=1, state="working", sent_bytes=5))
    endpoint.observe(events.TaskFinished(time_s=0.0, run="r", round=1, task=0, executor="w:1", seconds_s=0.1))
    endpoint.observe(events.RoundFinished(time_s=0.0, run="r", round=1, metrics={"loss_train": 0.5}))
    text = fetched(port)
    assert 'flmaster_round{run="r"} 1.0' in text
    assert 'flmaster_metric{metric="loss_train",run="r"} 0.5' in text
    assert 'flmaster_tasks_total{worker="w:1"} 1.0' in text
    assert 'flmaster_worker_bytes_total{way="sent",worker="w:1"} 5.0' in text
    assert "received" not in text
    endpoint.observe(events.WorkerLost(time_s=0.0, name="w:1", reason="died"))
    text = fetched(port)
    assert 'flmaster_worker_up{worker="w:1"} 0.0' in text
    assert "flmaster_workers_lost_total 1.0" in text
    endpoint.close()
    with pytest.raises(OSError, match="refused"):
        fetched(port)
