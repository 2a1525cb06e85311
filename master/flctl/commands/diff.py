"""`flctl diff A B`: what two runs have in common, and what not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from master.flctl.finding import find_run
from master.flctl.options import json_option, runs_dir_option
from master.flctl.stored_run import StoredRun
from master.flctl.tables import print_json, print_rows

_OF_THE_MACHINE = ("elapsed_s", "round_s", "wire_bytes_sent", "wire_bytes_received", "gpu_memory_bytes")
"""Metrics that say how it ran, not what came out: two equal runs differ in them."""
_SURROUNDINGS = ("host", "system", "cpus", "python", "devices", "git")


@click.command(name="diff")
@click.argument("a")
@click.argument("b")
@runs_dir_option
@json_option
def command(*, a: str, b: str, runs_dir: Path, as_json: bool) -> None:
    """Compares two runs: settings and surroundings that differ, last metrics, and whether the numbers are the same."""
    first, second = find_run(a, runs_dir), find_run(b, runs_dir)
    settings = _differing(first.settings, second.settings)
    surroundings = _differing(_environment(first), _environment(second))
    metrics = _metrics(first, second)
    verdict = same_numbers(first, second)
    if as_json:
        print_json({"a": str(first.path), "b": str(second.path), "settings": settings,
                    "environment": surroundings, "metrics": metrics, "numbers": verdict})  # fmt: skip
        return
    click.echo(f"a: {first.path}\nb: {second.path}\n")
    for title, rows in (("setting", settings), ("environment", surroundings)):
        if rows:
            print_rows([title, "a", "b"], [{title: row["key"], **row} for row in rows])
        else:
            click.echo(f"no {title} differs")
        click.echo()
    print_rows(["last metric", "a", "b", "b - a"], [{"last metric": row["key"], **row} for row in metrics])
    click.echo(f"\n{verdict}")


def same_numbers(first: StoredRun, second: StoredRun) -> str:
    """Whether the metrics are equal to the last bit, but for times and the wire; else where they part first."""
    a, b = ({record["round"]: _numbers(record) for record in run.records} for run in (first, second))
    common = [number for number in a if number in b]
    if not common:
        return "the runs have no round in common"
    for number in common:
        different = [name for name in a[number] if name in b[number] and not _equal(a[number][name], b[number][name])]
        if different:
            name = different[0]
            return f"the numbers part in round {number}: {name} {a[number][name]!r} against {b[number][name]!r}"
    return f"the numbers are the same, bit for bit, in all {len(common)} rounds that both measured"


def _numbers(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in _OF_THE_MACHINE}


def _equal(a: Any, b: Any) -> bool:
    return bool(a == b) or (a != a and b != b)


def _environment(run: StoredRun) -> dict[str, Any]:
    found = {name: run.environment.get(name) for name in _SURROUNDINGS}
    return found | {f"packages.{name}": version for name, version in run.environment.get("packages", {}).items()}


def _differing(a: dict[str, Any], b: dict[str, Any]) -> list[dict[str, Any]]:
    keys = dict.fromkeys((*a, *b))
    return [{"key": key, "a": a.get(key), "b": b.get(key)} for key in keys if a.get(key) != b.get(key)]


def _metrics(first: StoredRun, second: StoredRun) -> list[dict[str, Any]]:
    rows = []
    for name in dict.fromkeys((*first.last, *second.last)):
        a, b = first.last.get(name), second.last.get(name)
        difference = b - a if a is not None and b is not None else None
        rows.append({"key": name, "a": a, "b": b, "b - a": difference})
    return rows
