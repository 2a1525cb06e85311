"""`flctl export RUN…`: the numbers of runs as one table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from master.flctl.conditions import check_key, selected
from master.flctl.finding import find_runs
from master.flctl.options import runs_argument, runs_dir_option, where_option
from master.flctl.stored_run import StoredRun, as_words
from master.runs import write_whole
from protocol.errors import InputError


@click.command(name="export")
@runs_argument
@runs_dir_option
@where_option
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="FILE.csv or FILE.json.  [default: CSV to stdout]"
)
@click.option("--columns", default="", metavar="KEY,KEY", help="Settings beside each line.  [default: those that vary]")
def command(
    *, runs: tuple[str, ...], runs_dir: Path, where: tuple[str, ...], output: Path | None, columns: str
) -> None:
    """Writes every measured number: as CSV one line a round and run, as JSON one object a run with all its settings.

    A value that was not measured is empty (CSV) or absent (JSON).
    """
    if not runs:
        raise InputError("export needs at least one RUN (or a folder of runs)")
    kind = ".csv" if output is None else output.suffix.lower()
    if kind not in (".csv", ".json"):
        raise InputError(f"-o {output}: the name must end in .csv or .json")
    found = selected(find_runs(runs, runs_dir), where)
    if not found:
        raise InputError("no run meets every --where")
    asked = [key.strip() for key in columns.split(",") if key.strip()]
    for key in asked:
        check_key(key, found, "--columns")
    text = _csv(found, asked or _varying(found)) if kind == ".csv" else _json(found)
    if output is None:
        click.echo(text, nl=False)
        return
    write_whole(output, text.encode())
    click.echo(f"{output}: {len(found)} runs, {sum(len(run.records) for run in found)} rounds", err=True)


def _varying(runs: Sequence[StoredRun]) -> list[str]:
    """The settings in which the runs differ, and the seed."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    return [key for key in keys if key == "seed" or len({as_words(run.settings.get(key)) for run in runs}) > 1]


def _csv(runs: Sequence[StoredRun], keys: Sequence[str]) -> str:
    metrics = list(dict.fromkeys(name for run in runs for record in run.records for name in record if name != "round"))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["run", *keys, "round", *metrics])
    for run in runs:
        settings = ["" if (value := run.value(key)) is None else as_words(value) for key in keys]
        for record in run.records:
            writer.writerow([run.name, *settings, record["round"], *(record.get(name, "") for name in metrics)])
    return out.getvalue()


def _json(runs: Sequence[StoredRun]) -> str:
    records: list[dict[str, Any]] = [
        {
            "run": run.name,
            "status": run.status,
            "experiment": run.tables,
            "environment": run.environment,
            "metrics": run.records,
        }
        for run in runs
    ]
    return json.dumps(records, indent=1, default=str) + "\n"
