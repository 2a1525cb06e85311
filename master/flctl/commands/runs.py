"""`flctl runs`: the list of runs, filtered, sorted, and summed up over groups."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from master.flctl.conditions import check_key, natural, ordered, selected
from master.flctl.finding import all_runs, find_runs
from master.flctl.options import json_option, runs_argument, runs_dir_option, where_option
from master.flctl.stored_run import FACTS, StoredRun, as_words
from master.flctl.tables import print_rows
from protocol.errors import InputError

_METRICS = ("f", "grad_norm", "distance", "loss", "accuracy", "bits_up", "elapsed_s")


@click.command(name="runs")
@runs_argument
@runs_dir_option
@where_option
@click.option("--sort", default="started", help="A setting, metric or fact; -KEY for the largest first.")
@click.option("--columns", default="", metavar="KEY,KEY", help="What to show instead of the usual columns.")
@click.option("--group", multiple=True, metavar="KEY", help="One line a value of KEY: mean ± deviation of its runs.")
@click.option("--limit", type=click.IntRange(1), help="Only the first N lines.")
@json_option
def command(*, runs: tuple[str, ...], runs_dir: Path, group: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Lists runs: all of --runs-dir, or those named.

    \b
      flctl runs --where algorithm.name=diana --where 'grad_norm<1e-3' --sort grad_norm
      flctl runs --group algorithm.name --group uplink --columns grad_norm,bits_up
    """
    found = find_runs(runs, runs_dir) if runs else _everything(runs_dir)
    found = selected(found, options["where"])
    found = ordered(found, options["sort"])
    asked = [key.strip() for key in options["columns"].split(",") if key.strip()]
    for key in (*asked, *group):
        check_key(key, found, "--columns" if key in asked else "--group")
    if group:
        columns, rows = _grouped(found, group, asked or _measured(found))
    else:
        columns = ["run", *asked] if asked else _usual(found)
        rows = [{key: _cell(run, key) for key in columns} for run in found]
    print_rows(columns, rows[: options["limit"]], as_json=as_json)
    if not found and not as_json:
        click.echo("no run meets every --where" if options["where"] else f"no runs in {runs_dir}", err=True)


def _everything(runs_dir: Path) -> list[StoredRun]:
    if not runs_dir.is_dir():
        raise InputError(f"there is no folder {runs_dir}; --runs-dir says where runs are")
    return all_runs(runs_dir)


def _measured(runs: Sequence[StoredRun]) -> list[str]:
    return [name for name in _METRICS if any(name in run.last for run in runs)]


def _usual(runs: Sequence[StoredRun]) -> list[str]:
    several = len({run.value("name") for run in runs}) > 1
    return ["run", *(["name"] if several else []), "status", "round", *_measured(runs), "started"]


def _cell(run: StoredRun, key: str) -> Any:
    if key == "round" and run.status != "finished":
        return f"{run.rounds}/{run.value('rounds')}"
    return run.value(key)


def _grouped(
    runs: Sequence[StoredRun], keys: Sequence[str], asked: Sequence[str]
) -> tuple[list[str], list[dict[str, Any]]]:
    groups: dict[tuple[Any, ...], list[StoredRun]] = {}
    for run in runs:
        groups.setdefault(tuple(_hashable(run.value(key)) for key in keys), []).append(run)
    rows = []
    for values in sorted(groups, key=lambda values: [natural(value) for value in values]):
        members = groups[values]
        row: dict[str, Any] = {**dict(zip(keys, values, strict=True)), "runs": len(members)}
        for name in asked:
            row |= _spread(name, [run.value(name) for run in members])
        rows.append(row)
    columns = [*keys, "runs", *dict.fromkeys(name for row in rows for name in row if name not in (*keys, "runs"))]
    return columns, rows


def _spread(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """Mean and sample standard deviation of numbers; of anything else, the values."""
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]
    if len(numbers) < len([v for v in values if v is not None]) or name in FACTS:
        return {name: ", ".join(dict.fromkeys(as_words(v) for v in values if v is not None))}
    if not numbers:
        return {}
    spread = {f"{name} ±": statistics.stdev(numbers)} if len(numbers) > 1 else {}
    return {name: statistics.fmean(numbers), **spread}


def _hashable(value: Any) -> Any:
    return as_words(value) if isinstance(value, list) else value
