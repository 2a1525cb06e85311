"""`flctl show --partition`: how an experiment's samples are spread over its clients, as text and as a picture."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from master.flctl.finding import find_run
from master.flctl.tables import print_json
from master.runs import write_whole
from protocol.errors import InputError

if TYPE_CHECKING:
    from fl_core.experiment.schema import Experiment
    from fl_core.partitions.counts import Counts

FORMATS = (".pdf", ".png", ".svg")
_SHADES, _BLOCKS = " ·░▒▓█", " ▁▂▃▄▅▆▇█"
_WIDTH, _STRIPES, _LABEL = 100, 3, 6
"""Columns of clients in a stripe, stripes at most, and columns for a class's name."""


def show_partition(run: str, runs_dir: Path, data_root: Path | None, output: Path | None, as_json: bool) -> None:
    """Print how the samples of a run, or of the first run of an experiment file, are spread; draw it if asked.

    Args:
        output: FILE.pdf, .png or .svg; the counts go to a CSV beside it.

    Raises:
        InputError: no such run or file, an unknown kind of picture, or no data.
    """
    from fl_core.partitions.counts import counts_of
    from fl_core.problem import assemble

    if output is not None and output.suffix.lower() not in FORMATS:
        raise InputError(f"-o {output}: the name must end in .pdf, .png or .svg")
    experiment = _experiment(run, runs_dir)
    counts = counts_of(assemble(experiment, data_root).shards)
    title = _title(experiment)
    if as_json:
        print_json({"title": title, "labels": list(counts.labels), "counts": counts.table.tolist()})
    else:
        for line in lines(counts, title):
            click.echo(line)
    if output is not None:
        _draw(counts, title, output)
        click.echo(f"{output}; its numbers: {output.with_suffix('.csv')}", err=as_json)


def lines(counts: Counts, title: str) -> list[str]:
    """The picture in characters: a row a class, a column a client (or as many as it takes), and what sums it up.

    A shade stands for the samples a client (of the column, on average) has of the class, as the root of their share
    of the largest number of all, so that few samples still show; a blank is none.
    """
    n, sizes = len(counts.table), counts.sizes
    found = [f"{title}: {_many(sizes.sum(), 'sample')}, {_many(n, 'client')}", ""]
    found.append(f"{'':20}{''.join(f'{name:>9}' for name in ('least', '25 %', 'median', '75 %', 'most'))}")
    found.append(f"{'samples a client':20}{_spread(sizes)}")
    if counts.labels:
        found.append(f"{'classes a client':20}{_spread(counts.classes_each)}")
        found.append(f"{'distance':20}{_spread(counts.distances)}   (total variation from the classes of all)")
    each = -(-n // (_WIDTH * _STRIPES))
    starts = np.arange(0, n, each)
    cells = np.add.reduceat(counts.table, starts, axis=0) / np.diff([*starts, n])[:, None]
    for first in range(0, len(cells), _WIDTH):
        stripe = cells[first : first + _WIDTH]
        last = min((first + len(stripe)) * each, n) - 1
        found += [
            "",
            f"{'class':>{_LABEL}}  clients {first * each} to {last}{f', {each} a column' if each > 1 else ''}",
        ]
        for column, label in enumerate(counts.labels):
            found.append(f"{label:>{_LABEL}}  {_shaded(stripe[:, column], cells.max(), _SHADES, 0.5)}")
        found.append(f"{'all':>{_LABEL}}  {_shaded(stripe.sum(axis=1), cells.sum(axis=1).max(), _BLOCKS, 1.0)}")
    return found


def table_csv(counts: Counts) -> str:
    """One line a client and class that it has samples of; of the others, none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["client", "label", "samples"])
    labels = counts.labels or ("",)
    for client, column in np.argwhere(counts.table > 0):
        writer.writerow([client, labels[column], counts.table[client, column]])
    return out.getvalue()


def _experiment(run: str, runs_dir: Path) -> Experiment:
    """Of an experiment file, or of a stored run, whose own files lie beside its experiment.toml."""
    from fl_core.experiment.reading import read_experiments

    path = Path(run) if run.endswith(".toml") else find_run(run, runs_dir).path / "experiment.toml"
    return read_experiments(path)[0]


def _draw(counts: Counts, title: str, output: Path) -> None:
    try:
        from master.plotting.partition import save
    except ImportError:
        raise InputError("-o needs matplotlib: pip install 'flspan[plot]'") from None
    save(counts, title, output)
    write_whole(output.with_suffix(".csv"), table_csv(counts).encode())


def _title(experiment: Experiment) -> str:
    from fl_core.options import shown

    data = experiment.data
    if data.partition is None:
        return f"{data.plug.name}, in its own clients"
    options = ", ".join(f"{key} = {shown(value)}" for key, value in data.partition.options.items())
    return f"{data.plug.name}, {data.partition.name}{f' ({options})' if options else ''}, seed {experiment.seed}"


def _spread(values: Any) -> str:
    """Least, quartiles and most."""
    parts = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
    return "".join(f"{part:>9,.4g}" for part in parts)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _shaded(values: Any, largest: float, scale: str, power: float) -> str:
    top = len(scale) - 1
    return "".join(scale[0 if value == 0 else max(1, round(top * (value / largest) ** power))] for value in values)


__all__ = ["lines", "show_partition", "table_csv"]
