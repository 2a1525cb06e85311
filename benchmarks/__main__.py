"""The command line: runs every measurement, prints a table, writes JSON.

    python -m benchmarks --quick                    minutes
    python -m benchmarks --full --json docs/performance.json
    python -m benchmarks --quick --only L

Bare loop and flspan alternate in one process tree, so that a slow phase of the machine meets both.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks import fixed_costs, ours, transport
from benchmarks.workloads import WORKLOADS, Workload


@click.command()
@click.option("--quick/--full", default=True, help="One repeat of fewer rounds, or three of all.")
@click.option(
    "--only", multiple=True, type=click.Choice([*WORKLOADS, "transport", "fixed"]), help="Leave out the rest."
)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write everything there.")
def main(*, quick: bool, only: tuple[str, ...], path: Path | None) -> None:
    """Measures flspan against the best plain PyTorch loop written by hand."""
    chosen = only or (*WORKLOADS, "transport", "fixed")
    found: dict[str, Any] = {"machine": machine(), "workloads": {}}
    click.echo(
        f"{'':8}{'':14}{'updates/s':>11}{'x bare':>8}{'first s':>9}{'round ms':>10}{'MB':>7}{'wire B/round':>14}"
    )
    for name in [name for name in WORKLOADS if name in chosen]:
        found["workloads"][name] = against_bare(WORKLOADS[name], quick)
    if "fixed" in chosen:
        seconds = 1.0 if quick else 5.0
        found["client_ms"] = fixed_costs.client_ms(seconds)
        found["aggregation_ratio"] = fixed_costs.aggregation_ratio(seconds)
        click.echo(f"a client of L by itself: {found['client_ms']:.3f} ms more than the bare loop's")
        click.echo(f"aggregation of 100 x 11.2M floats: {found['aggregation_ratio']:.2f} x one pass over them")
    if "transport" in chosen:
        found["transport"] = {}
        for size in (45_000_000, 240_000_000):
            measured = transport.measure(size, 5 if quick else 20)
            found["transport"][size] = asdict(measured)
            click.echo(
                f"{size / 1e6:.0f} MB over loopback: {measured.ours_gb_per_s:.2f} GB/s, blocking sockets "
                f"{measured.blocking_gb_per_s:.2f}; loop lag {measured.lag_ms:.1f} ms; round trip "
                f"{measured.round_trip_us:.0f} us; {measured.small_per_s:.0f} small messages/s"
            )
    if path is not None:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def against_bare(workload: Workload, quick: bool) -> dict[str, Any]:
    """The bare loop and every way of ours, alternating; medians over the repeats."""
    rounds = max(4, workload.rounds // 4) if quick else workload.rounds
    bare: list[dict[str, float]] = []
    each: dict[str, list[ours.Measured]] = {way: [] for way in ours.WAYS}
    for _ in range(1 if quick else 3):
        for way, measured in each.items():
            bare.append(_bare(workload, 2.0 if quick else 8.0))
            fewer = max(4, rounds // 10) if way == "one by one" else rounds
            measured.append(ours.measure(workload, way, fewer))
    speed = statistics.median(one["updates_per_s"] for one in bare)
    peak = max(one["peak_bytes"] for one in bare)
    click.echo(f"{workload.name:8}{'bare loop':14}{speed:11.0f}{1.0:8.2f}{'':19}{peak / 1e6:7.0f}")
    rows: dict[str, Any] = {"bare": {"updates_per_s": speed, "peak_bytes": peak}}
    for number, (way, measured) in enumerate(each.items()):
        # Each run against the bare runs just before it: the machine drifts.
        beside = [one["updates_per_s"] for one in bare[number :: len(each)]]
        ratio = statistics.median(m.updates_per_s / b for m, b in zip(measured, beside, strict=True))
        middle = sorted(measured, key=lambda m: m.updates_per_s)[len(measured) // 2]
        rows[way] = {**asdict(middle), "ratio": ratio}
        click.echo(
            f"{'':8}{way:14}{middle.updates_per_s:11.0f}{ratio:8.2f}{middle.first_round_s:9.2f}{middle.round_ms:10.2f}"
            f"{middle.peak_bytes / 1e6:7.0f}{middle.wire_bytes:14.0f}"
        )
    return rows


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


def _bare(workload: Workload, seconds: float) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.bare", workload.name, str(seconds)]
    done = subprocess.run(command, cwd=ours.ROOT, capture_output=True, text=True, check=True)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


if __name__ == "__main__":
    main()
