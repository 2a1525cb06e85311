"""Tables for people and for programs: rich on a terminal, tab-separated lines elsewhere, JSON when asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from master.flctl.stored_run import as_words
from master.observers.units import duration, number, printable, scaled

Row = Mapping[str, Any]


def print_rows(columns: Sequence[str], rows: Sequence[Row], *, as_json: bool = False, title: str = "") -> None:
    """One line a row. A value that is not there is left empty."""
    if as_json:
        print_json([{name: row[name] for name in columns if row.get(name) is not None} for row in rows])
    elif sys.stdout.isatty():
        _print_rich(columns, rows, title)
    else:
        click.echo("\t".join(columns))
        for row in rows:
            click.echo("\t".join(plain(row.get(name)) for name in columns))


def print_json(value: Any) -> None:
    """Indented JSON; NaN and infinity as Python writes them."""
    click.echo(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def plain(value: Any) -> str:
    """A value for a program: every digit, no tab and no line break."""
    text = "" if value is None else repr(value) if isinstance(value, float) else as_words(value)
    return printable(text)


def shown(name: str, value: Any) -> str:
    """A value for people: four digits, units, dates without their zone."""
    if value is None:
        return ""
    if name == "started":
        return str(value)[:16].replace("T", " ")
    if isinstance(value, bool | str | list | Mapping):
        return printable(as_words(value))
    if name.endswith("_s"):
        return duration(value)
    if name.startswith("bits_") or name == "oracle_calls":
        return scaled(value)
    return scaled(value, "B") if name.startswith("wire_bytes") or name.endswith("_bytes") else number(value)


def _print_rich(columns: Sequence[str], rows: Sequence[Row], title: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for name in columns:
        numeric = any(isinstance(row.get(name), int | float) for row in rows)
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        look = {"status": _STYLES.get(str(row.get("status", "")), "")}
        table.add_row(*(Text(shown(name, row.get(name)), look.get(name, "")) for name in columns))
    Console().print(table)


_STYLES = {"finished": "green", "running": "cyan", "failed": "red", "stopped": "yellow", "interrupted": "yellow"}

__all__ = ["plain", "print_json", "print_rows", "shown"]
