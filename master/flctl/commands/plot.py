"""`flctl plot RUN…`: any metric against any other, and the drawn numbers beside the picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from master.flctl.conditions import selected
from master.flctl.finding import find_runs
from master.flctl.options import runs_argument, runs_dir_option, where_option
from master.runs import write_whole
from protocol.errors import InputError


class Pair(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic since click 8.4
    """Two numbers: "4.5x3" or "1e-6,1"."""

    def __init__(self, separator: str) -> None:
        self.separator = separator
        self.name = f"A{separator}B"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        """The two numbers."""
        if isinstance(value, tuple):
            return value
        try:
            a, b = (float(part) for part in str(value).split(self.separator))
        except ValueError:
            self.fail(f"{value!r} must look like {self.name} with two numbers", param, ctx)
        return a, b


@dataclass(frozen=True)
class PlotOptions:
    """What the command line says, but for the runs and the file."""

    x: str
    y: tuple[str, ...]
    group: tuple[str, ...]
    by: str | None
    label: str | None
    order: str | None
    band: Any
    subtract: str | None
    theory: bool
    overlay: tuple[str, ...]
    overlay_x_scale: float
    data_root: Path | None
    title: str
    logx: bool
    logy: bool | None
    legend: Any
    size: tuple[float, float] | None
    xlim: tuple[float, float] | None
    ylim: tuple[float, float] | None


@click.command(name="plot")
@runs_argument
@runs_dir_option
@where_option
@click.option("-x", default="round", metavar="METRIC", help="What goes to the right.")
@click.option("-y", multiple=True, metavar="METRIC", default=("grad_norm",), help="What goes up; each gets a panel.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="FILE.pdf, .png or .svg.")
@click.option("--group", multiple=True, metavar="KEY", help="Settings that make a curve.  [default: all but the seed]")
@click.option("--by", metavar="KEY", help="A panel for each value of KEY.")
@click.option("--label", metavar="TEMPLATE", help='Legend, as in "{algorithm.name}, {uplink}".')
@click.option("--order", metavar="KEY", help="Order of the curves by a setting or last metric; -KEY reverses.")
@click.option(
    "--band",
    type=click.Choice(["std", "quantiles", "range", "none"]),
    default="std",
    help="Over the runs of a curve: mean ± sample deviation, median with 20-80 % quantiles, or mean with extremes.",
)
@click.option("--subtract", metavar="NUMBER|f*", help="Taken off y: a number, or f* (as -y f-f*).")
@click.option("--theory", is_flag=True, help="Draw the rate of the method's theorem where one is known.")
@click.option("--overlay", multiple=True, metavar="FILE", help="A CSV (x,y,label) or JSON; FILE#key=value picks.")
@click.option("--overlay-x-scale", type=float, default=1.0, help="Multiplies the overlays' x.")
@click.option("--data-root", type=click.Path(path_type=Path), help="Where --theory and f* find the data set.")
@click.option("--title", default="", help="Above the figure.")
@click.option("--logx/--no-logx", default=False)
@click.option("--logy/--no-logy", default=None, help="[default: as suits the data]", show_default=False)
@click.option("--legend", type=click.Choice(["auto", "ends", "inside", "below", "none"]), default="auto")
@click.option("--size", type=Pair("x"), help="Of the figure, in inches.")
@click.option("--xlim", type=Pair(","))
@click.option("--ylim", type=Pair(","))
def command(*, runs: tuple[str, ...], runs_dir: Path, where: tuple[str, ...], output: Path, **options: Any) -> None:
    """Draws runs: a curve is the mean over seeds, a panel one metric against another.

    \b
      flctl plot runs/fig2 -x bits_up -y grad_norm -o fig2.pdf
      flctl plot runs/fig2 -y grad_norm -y distance --by local.steps --label "{uplink}" --theory -o grid.pdf

    Beside the metrics themselves, f-f* (where f* is known), METRIC-NUMBER and squares, as in grad_norm^2, can be drawn.
    A point is a round in which all runs of the curve measured both metrics; nothing is interpolated. On a log axis a
    value of 0 is drawn at the bottom, as a triangle. The numbers drawn go to a CSV beside the picture.
    """
    if output.suffix.lower() not in (".pdf", ".png", ".svg"):
        raise InputError(f"-o {output}: the name must end in .pdf, .png or .svg")
    if not runs:
        raise InputError("plot needs at least one RUN (or a folder of runs)")
    found = selected(find_runs(runs, runs_dir), where)
    if not found:
        raise InputError("no run meets every --where")
    try:
        import matplotlib  # noqa: F401  only this command needs it
    except ImportError:
        raise InputError("plot needs matplotlib: pip install 'flspan[plot]'") from None
    from master.plotting.composing import compose
    from master.plotting.figure import Look, save
    from master.plotting.table import figure_csv

    settings = PlotOptions(**options)
    begun = [run for run in found if run.records] or found
    panels, rows, notes = compose(begun, settings)
    if len(begun) < len(found):
        notes.append(f"{len(found) - len(begun)} of {len(found)} runs have measured nothing yet and are left out")
    names = ("title", "logx", "logy", "legend", "size", "xlim", "ylim")
    look = Look(**{name: options[name] for name in names})
    save(panels, rows, look, output)
    data = output.with_suffix(".csv")
    write_whole(data, figure_csv(panels).encode())
    for text in notes:
        click.echo(f"# {text}", err=True)
    curves = len({curve.label for panel in panels for curve in panel.curves if curve.kind == "runs"})
    click.echo(f"{output}: {curves} {'curve' if curves == 1 else 'curves'} of {len(begun)} runs; its numbers: {data}")
