"""The command line: runs every measurement, prints a table, writes JSON.

    python -m benchmarks --quick                    four minutes
    python -m benchmarks --full --json docs/performance.json        twelve
    python -m benchmarks --quick --only L

Bare loop and flspan alternate in one process tree, so that a slow phase of the machine meets both: a run of ours is
compared with the bare loop just before it and just after it. What is measured at the moment goes to standard error.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks import fixed_costs, ours, transport
from benchmarks.bare import BareProcess
from benchmarks.workloads import WORKLOADS, Workload

_STARTED = time.perf_counter()
_SLOW = {"C": ("1 thread", "2 threads", "2 workers"), "R": ("2 threads", "2 workers")}
"""Of models that are not fused, what is the same as another way is left out."""


@click.command()
@click.option("--quick/--full", default=True, help="One repeat of fewer rounds, or two of all (of R one).")
@click.option(
    "--only", multiple=True, type=click.Choice([*WORKLOADS, "transport", "fixed"]), help="Leave out the rest."
)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write everything there.")
def main(*, quick: bool, only: tuple[str, ...], path: Path | None) -> None:
    """Measures flspan against the best plain PyTorch loop written by hand."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that children are ended too
    chosen = only or (*WORKLOADS, "transport", "fixed")
    found: dict[str, Any] = {"machine": machine(), "workloads": {}}
    click.echo(
        f"{'':8}{'':14}{'updates/s':>11}{'x bare':>8}{'first s':>9}{'round ms':>10}{'own ms':>8}{'MB':>7}"
        f"{'wire B/round':>14}"
    )
    for name in [name for name in WORKLOADS if name in chosen]:
        found["workloads"][name] = against_bare(WORKLOADS[name], quick)
    if "fixed" in chosen:
        seconds = 1.0 if quick else 5.0
        _progress("fixed costs")
        found["client_ms"] = fixed_costs.client_ms(seconds)
        found["aggregation_ratio"] = fixed_costs.aggregation_ratio(seconds)
        click.echo(f"a client of L by itself: {found['client_ms']:.3f} ms more than the bare loop's")
        click.echo(f"aggregation of 100 x 11.2M floats: {found['aggregation_ratio']:.2f} x one pass over them")
    if "transport" in chosen:
        found["transport"] = {size: _transport(size, quick) for size in (45_000_000, 240_000_000)}
    found["took_s"] = time.perf_counter() - _STARTED
    if path is not None:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def against_bare(workload: Workload, quick: bool) -> dict[str, Any]:
    """The bare loop and every way of ours, alternating; medians over the repeats."""
    ways = _SLOW.get(workload.name, tuple(ours.WAYS))
    repeats = 1 if quick or workload.name == "R" else 2
    rates: list[float] = []
    each: dict[str, list[tuple[ours.Measured, float]]] = {way: [] for way in ways}
    with BareProcess(workload, ours.ROOT) as bare:

        def beside() -> float:
            rates.append(bare.rate(1.5 if quick else 4.0))
            _progress(f"{workload.name}, bare loop: {rates[-1]:.4g} updates/s")
            return rates[-1]

        before = beside()
        for way in ways * repeats:
            measured = ours.measure(workload, way, _rounds(workload, way, quick))
            _progress(f"{workload.name}, {way}: {measured.updates_per_s:.4g} updates/s")
            after = beside()
            each[way].append((measured, 2 * measured.updates_per_s / (before + after)))
            before = after
        peak = bare.peak_bytes
    speed = statistics.median(rates)
    click.echo(f"{workload.name:8}{'bare loop':14}{speed:11.0f}{1.0:8.2f}{'':27}{peak / 1e6:7.0f}")
    rows: dict[str, Any] = {"bare": {"updates_per_s": speed, "slowest": min(rates), "fastest": max(rates)}}
    rows["bare"]["peak_bytes"] = peak
    for way, found in each.items():
        ratio = statistics.median(ratio for _, ratio in found)
        middle = sorted((m for m, _ in found), key=lambda m: m.updates_per_s)[len(found) // 2]
        rows[way] = {**asdict(middle), "ratio": ratio}
        _row(way, middle, ratio)
    return rows


def _rounds(workload: Workload, way: str, quick: bool) -> int:
    rounds = workload.quick_rounds if quick else workload.rounds
    return min(rounds, max(4, rounds // 20)) if way == "one by one" else rounds


def _row(way: str, measured: ours.Measured, ratio: float) -> None:
    own = "" if measured.own_ms is None else f"{measured.own_ms:.2f}"
    click.echo(
        f"{'':8}{way:14}{measured.updates_per_s:11.0f}{ratio:8.2f}{measured.first_round_s:9.2f}{measured.round_ms:10.2f}"
        f"{own:>8}{measured.peak_bytes / 1e6:7.0f}{measured.wire_bytes:14.0f}"
    )


def _transport(size: int, quick: bool) -> dict[str, Any]:
    _progress(f"{size / 1e6:.0f} MB over loopback")
    measured = transport.measure(size, 5 if quick else 20)
    click.echo(
        f"{size / 1e6:.0f} MB over loopback: {measured.ours_gb_per_s:.2f} GB/s, blocking sockets "
        f"{measured.blocking_gb_per_s:.2f}; loop lag {measured.sender_lag_ms:.1f} and "
        f"{measured.receiver_lag_ms:.1f} ms; round trip "
        f"{measured.round_trip_us:.0f} us; {measured.small_per_s:.0f} small messages/s"
    )
    return asdict(measured)


def _progress(text: str) -> None:
    click.echo(f"{time.perf_counter() - _STARTED:6.0f} s  {text}", err=True)


def machine() -> dict[str, Any]:
    """What the numbers hold for."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


if __name__ == "__main__":
    main()
