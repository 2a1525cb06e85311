"""`flctl check FILE.py`: the contract, held against a user's own algorithm or compressor."""

from __future__ import annotations

import sys
import textwrap
import time
from collections import Counter

import click

from master.flctl.options import json_option
from master.flctl.tables import print_json

_STYLES = {"ok": "green", "failed": "red", "fact": "cyan", "skipped": "yellow"}
_TEXT_AT = 34


@click.command(name="check")
@click.argument("file", metavar="FILE.py")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="An option of the plug-in, or TABLE.KEY=VALUE.")
@click.option("--only", multiple=True, metavar="PROPERTY", help="Look at this property alone (repeatable).")
@json_option
def command(*, file: str, sets: tuple[str, ...], only: tuple[str, ...], as_json: bool) -> None:
    """Checks an algorithm or a compressor of your own (or one of ours, by name) without a cluster, in seconds.

    \b
      flctl check my_algorithm.py --set alpha=0.25
      flctl check my_compressor.py --set k='"10%"'

    One line a property, with its numbers: ok, failed, skipped (does not apply), or a fact that is worth knowing. The
    exit code is 1 if any failed.
    """
    import torch

    from fl_core.contract import AlgorithmSubject, check_algorithm, check_compressor, read_subject
    from fl_core.plugins import verify_house

    verify_house()
    torch.set_num_threads(1)
    started = time.perf_counter()
    subject = read_subject(file, sets)
    counts: Counter[str] = Counter()
    found = []
    whole = check_algorithm(subject, only) if isinstance(subject, AlgorithmSubject) else check_compressor(subject, only)
    for finding in whole:
        counts[finding.outcome] += 1
        found.append({"property": finding.property, "outcome": finding.outcome, "text": finding.text})
        if not as_json:
            _print(finding.outcome, finding.property, finding.text)
    if as_json:
        print_json(found)
    else:
        told = ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("ok", "failed", "skipped") if counts[outcome])
        click.echo(f"\n{file}: {told}, in {time.perf_counter() - started:.1f} s")
    sys.exit(1 if counts["failed"] else 0)


def _print(outcome: str, name: str, text: str) -> None:
    """One line; on a terminal, its text folded beside the property."""
    if not sys.stdout.isatty():
        click.echo(f"{outcome}\t{name}\t{text}")
        return
    import shutil

    width = max(40, shutil.get_terminal_size().columns - _TEXT_AT - 1)
    first, *rest = textwrap.wrap(text, width) or [""]
    click.echo(f"{click.style(f'{outcome:<8}', fg=_STYLES[outcome])} {name:<{_TEXT_AT - 10}} {first}")
    for line in rest:
        click.echo(" " * _TEXT_AT + line)
