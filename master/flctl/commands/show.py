"""`flctl show RUN`: one run on one page; with --partition, how its samples are spread over the clients."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import click

from master.flctl.finding import find_run
from master.flctl.options import json_option, run_argument, runs_dir_option
from master.flctl.stored_run import StoredRun
from master.flctl.tables import print_json, print_rows, shown
from master.observers.sparkline import is_logarithmic, sparkline
from protocol.errors import InputError

_WIDTH = 40


@click.command(name="show")
@run_argument
@runs_dir_option
@json_option
@click.option("--partition", is_flag=True, help="Samples per class per client; RUN may be an experiment file, too.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="With --partition: FILE.pdf, .png or .svg.")
@click.option("--data-root", type=click.Path(path_type=Path), help="With --partition: where the data set is.")
def command(
    *, run: str, runs_dir: Path, as_json: bool, partition: bool, output: Path | None, data_root: Path | None
) -> None:
    """Shows a run: status, resolved settings, what it ran on, and every metric with its curve.

    \b
      flctl show runs/digits-fedavg/fedavg-s1-0123456789
      flctl show --partition examples/digits.toml -o partition.pdf
    """
    if partition:
        from master.flctl.partition import show_partition

        show_partition(run, runs_dir, data_root, output, as_json)
        return
    if output is not None:
        raise InputError("-o draws a partition: say --partition too (flctl plot draws metrics)")
    found = find_run(run, runs_dir)
    if as_json:
        print_json(_record(found))
        return
    started = shown("started", found.environment.get("started"))
    click.echo(f"{found.name}   {found.status}, round {found.rounds} of {found.value('rounds')}, started {started}")
    click.echo(str(found.path))
    if found.summary.get("error"):
        click.echo(f"\n{found.summary['error']}")
    click.echo()
    print_rows(["setting", "value"], [{"setting": key, "value": value} for key, value in found.settings.items()])
    click.echo()
    print_rows(["environment", "value"], _surroundings(found))
    click.echo()
    print_rows(["metric", "first", "last", "least", "most", "curve"], _metrics(found))


def _record(run: StoredRun) -> dict[str, Any]:
    return {
        "run": run.name,
        "folder": str(run.path),
        "status": run.status,
        "round": run.rounds,
        "settings": run.settings,
        "environment": run.environment,
        "metrics": run.last,
        "summary": run.summary,
    }


def _surroundings(run: StoredRun) -> list[dict[str, Any]]:
    environment = dict(run.environment)
    packages = environment.pop("packages", {})
    environment["packages"] = ", ".join(f"{name} {version}" for name, version in packages.items())
    if isinstance(environment.get("command_line"), list):
        environment["command_line"] = " ".join(environment["command_line"])
    if isinstance(git := environment.get("git"), dict):
        environment["git"] = f"{git.get('commit')}{' with changes' if git.get('changed') else ''}"
    starts = len(run.folder.environments())
    if starts > 1:
        environment["starts"] = starts
    return [{"environment": key, "value": value} for key, value in environment.items() if value is not None]


def _metrics(run: StoredRun) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name in run.last:
        values = [float(record[name]) for record in run.records if name in record]
        finite = [value for value in values if math.isfinite(value)]
        row: dict[str, Any] = {"first": values[0], "last": values[-1]}
        row |= {"least": min(finite), "most": max(finite)} if finite else {}
        if sys.stdout.isatty():
            row = {column: shown(name, value) for column, value in row.items()}
        curve = sparkline(values, _WIDTH)[0] + (" log" if is_logarithmic(values) else "")
        rows.append({"metric": name, **row, "curve": curve})
    return rows
