"""`--metrics-port`: what a daemon knows of itself, for Prometheus to fetch. Needs the extra `metrics`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from protocol.errors import InputError


@dataclass(frozen=True)
class Sample:
    """A number now.

    Attributes:
        labels: name to value, the same names in all samples of a name.
    """

    name: str
    help: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)
    kind: Literal["gauge", "counter"] = "gauge"


def serve_metrics(host: str, port: int, read: Callable[[], Iterable[Sample]]) -> Callable[[], None]:
    """Answer `http://host:port/metrics` from a thread with what `read` gives then; the result stops it.

    `read` is called in that thread: it should look at plain values only. Python's own numbers (memory, CPU, open
    files of the process) come with them.

    Raises:
        InputError: the extra is not installed, or the port cannot be had.
    """
    try:
        import prometheus_client
        from prometheus_client import core
    except ImportError:
        raise InputError("--metrics-port needs prometheus-client: pip install 'flspan[metrics]'") from None
    families = {"gauge": core.GaugeMetricFamily, "counter": core.CounterMetricFamily}

    class Collector:
        def collect(self) -> Iterable[Any]:
            for samples in _by_name(read()):
                names = list(samples[0].labels)
                family = families[samples[0].kind](samples[0].name, samples[0].help, labels=names)
                for sample in samples:
                    family.add_metric([sample.labels[name] for name in names], sample.value)
                yield family

    registry = prometheus_client.CollectorRegistry()
    prometheus_client.ProcessCollector(registry=registry)
    registry.register(Collector())
    try:
        server, thread = prometheus_client.start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise InputError(f"--metrics-port: cannot listen on {host}:{port}: {error.strerror or error}") from None

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop


def _by_name(samples: Iterable[Sample]) -> Sequence[Sequence[Sample]]:
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.name, []).append(sample)
    return list(found.values())
