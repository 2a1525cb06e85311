"""`flctl list KIND`: what an experiment file may name, with one line on each and its options."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import click

from master.flctl.options import json_option
from master.flctl.tables import print_json, print_rows
from protocol.errors import InputError

_PLUG_INS = {
    "algorithms": "algorithm",
    "compressors": "compressor",
    "models": "model",
    "datasets": "dataset",
    "partitions": "partition",
}
_KINDS = (*_PLUG_INS, "metrics", "optimizers", "schedules", "regularizers")


@dataclass(frozen=True)
class Entry:
    """One name, with what it is for and which options it takes: name -> (type in words, default or None)."""

    name: str
    summary: str
    options: Mapping[str, tuple[str, str | None]]


@click.command(name="list")
@click.argument("kind", type=click.Choice(_KINDS), metavar="|".join(_KINDS))
@click.argument("name", required=False)
@json_option
def command(*, kind: str, name: str | None, as_json: bool) -> None:
    """Lists what there is of a KIND; with a NAME, that one alone with its whole documentation."""
    entries = list(_entries(kind))
    if name is not None:
        _print_one(kind, name, entries)
    elif as_json:
        print_json([{"name": e.name, "summary": e.summary, "options": e.options} for e in entries])
    elif sys.stdout.isatty():
        _print_all(kind, entries)
    else:
        rows = [{kind: e.name, "summary": e.summary, "options": "; ".join(_spelled(e))} for e in entries]
        print_rows([kind, "summary", "options"], rows)


def _entries(kind: str) -> Iterator[Entry]:
    if kind in _PLUG_INS:
        return _plug_ins(_PLUG_INS[kind])
    found: dict[str, Callable[[], Iterator[Entry]]] = {
        "metrics": _metrics,
        "optimizers": _optimizers,
        "schedules": _schedules,
        "regularizers": _regularizers,
    }
    return found[kind]()


def _plug_ins(kind: str) -> Iterator[Entry]:
    from fl_core import plugins
    from fl_core.options import options_of

    plugins.verify_house()
    for name in plugins.names(kind):
        target = plugins.resolve(kind, name)
        summary = _summary(inspect.getdoc(plugins.module(kind, name)) or inspect.getdoc(target) or "")
        yield Entry(name, summary, _options(options_of(target, context=plugins.CONTEXT[kind])))


def _metrics() -> Iterator[Entry]:
    from fl_core.experiment.schema import CLIENT_METRICS, EVALUATED_METRICS
    from master.plotting.metric_words import METRICS

    for name, words in METRICS.items():
        when = "evaluated when [evaluate] asks" if name in (*EVALUATED_METRICS, *CLIENT_METRICS) else "every round"
        yield Entry(name, f"{words.definition} ({when})", {})


def _optimizers() -> Iterator[Entry]:
    from fl_core.experiment.optimizers import optimizer_class, optimizer_names, optimizer_options

    for name in optimizer_names():
        kind = optimizer_class(name)
        yield Entry(name, _summary(inspect.getdoc(kind) or kind.__name__), _options(optimizer_options(name)))


def _schedules() -> Iterator[Entry]:
    from fl_core.experiment.optimizers import SCHEDULES

    for name, options in SCHEDULES.items():
        summary = "the step size stays" if name == "constant" else "as torch.optim.lr_scheduler has it"
        yield Entry(name, summary, _options(options))


def _regularizers() -> Iterator[Entry]:
    from fl_core.options import options_of
    from fl_core.regularizers import REGULARIZERS

    for name, target in REGULARIZERS.items():
        yield Entry(name, _summary(inspect.getdoc(target) or ""), _options(options_of(target)))


def _options(options: Mapping[str, Any]) -> dict[str, tuple[str, str | None]]:
    from fl_core.options import MISSING, shown, words

    found: dict[str, tuple[str, str | None]] = {}
    for name, option in options.items():
        default = None if option.default is MISSING else "unset" if option.default is None else shown(option.default)
        found[name] = (words(option.type), default)
    return found


def _summary(doc: str) -> str:
    """The first sentence of a documentation, on one line."""
    paragraph = " ".join(doc.split("\n\n")[0].split())
    return re.split(r"(?<! al)(?<! cf)\. (?=[A-Z])", paragraph, maxsplit=1)[0].removesuffix(".")


def _spelled(entry: Entry) -> list[str]:
    """`alpha = 0.5 (a number greater than 0)`; without a default it has to be given."""
    return [
        f"{name}{'' if default is None else f' = {default}'} ({kind})"
        for name, (kind, default) in entry.options.items()
    ]


def _print_all(kind: str, entries: list[Entry]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(kind, style="bold", no_wrap=True)
    table.add_column("")
    for entry in entries:
        text = Text(entry.summary)
        for line in _spelled(entry):
            text.append(f"\n  {line}", style="dim")
        table.add_row(entry.name, text)
    Console().print(table)


def _print_one(kind: str, name: str, entries: list[Entry]) -> None:
    import difflib

    spelled = name.casefold().replace("_", "-")
    found = next((entry for entry in entries if entry.name.replace("_", "-") == spelled), None)
    if found is None:
        near = difflib.get_close_matches(spelled, [entry.name for entry in entries], n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"there are: {', '.join(entry.name for entry in entries)}"
        raise InputError(f'there is nothing called "{name}" among the {kind}; {hint}')
    click.echo(f"{found.name}: {found.summary}")
    for line in _spelled(found):
        click.echo(f"  {line}")
    if kind in _PLUG_INS:
        from fl_core import plugins

        module, target = plugins.module(_PLUG_INS[kind], found.name), plugins.resolve(_PLUG_INS[kind], found.name)
        for doc in (inspect.getdoc(module), inspect.getdoc(target)):
            click.echo(f"\n{doc or ''}")
