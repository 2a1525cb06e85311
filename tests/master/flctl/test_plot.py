"""flctl plot: the picture, and the numbers beside it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from master.flctl.finding import all_runs

Flctl = Callable[..., Result]


def points(path: Path) -> list[dict[str, str]]:
    """The lines of the CSV."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_numbers_drawn_lie_beside_the_picture(flctl: Flctl, runs_dir: Path, tmp_path: Path) -> None:
    """A curve an operator, the mean over its seeds, only at rounds that were evaluated."""
    result = flctl("plot", "quad", "-x", "bits_up", "-y", "grad_norm", "-o", "out.pdf")
    assert result.exit_code == 0, result.output
    assert result.stdout == "out.pdf: 2 curves of 4 runs; its numbers: out.csv\n"
    assert (tmp_path / "out.pdf").read_bytes().startswith(b"%PDF")
    drawn = points(tmp_path / "out.csv")
    assert [row["round"] for row in drawn if row["label"] == "identity"] == ["0", "2", "4", "6", "8"]
    runs = [run for run in all_runs(runs_dir) if run.value("uplink.name") == "identity"]
    last = [run.records[-1] for run in runs]
    row = next(row for row in drawn if row["label"] == "identity" and row["round"] == "8")
    assert float(row["y"]) == pytest.approx(sum(record["grad_norm"] for record in last) / 2, rel=1e-15)
    assert float(row["x"]) == last[0]["bits_up"] == last[1]["bits_up"]
    assert (row["runs"], row["kind"]) == ("2", "runs")
    assert {row["label"] for row in drawn} == {"identity", "randk, k = 50%"}


def test_a_grid_with_theory_and_overlay(flctl: Flctl, runs_dir: Path, tmp_path: Path) -> None:
    """A panel for each metric and operator; the theorem's line where it holds, a note where not; a foreign series."""
    rows = ["x,y,label,panel", '0,1,"diana, published",distance', '8,0.1,"diana, published",distance']
    (tmp_path / "published.csv").write_text("\n".join(rows))
    result = flctl("plot", "quad", "-y", "grad_norm", "-y", "distance", "--by", "uplink", "--label", "{algorithm.name}",
                   "--theory", "--overlay", "published.csv", "--title", "four panels", "-o", "out.png")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "needs no compression" in result.stderr
    drawn = points(tmp_path / "out.csv")
    assert {(row["panel"], row["y_metric"]) for row in drawn} == {
        (uplink, y) for uplink in ("identity", "randk (k = 50%)") for y in ("grad_norm", "distance")
    }
    theory = {(row["panel"], row["label"]) for row in drawn if row["kind"] == "theory"}
    assert {panel for panel, _ in theory} == {"identity"}
    assert all("gradient descent theorem" in label for _, label in theory)
    assert {row["y_metric"] for row in drawn if row["kind"] == "overlay"} == {"distance"}


def test_f_minus_its_least_value(flctl: Flctl, runs_dir: Path, tmp_path: Path) -> None:
    """Each seed's own f*; the gap is positive and falls."""
    where = ("--where", "uplink.name=identity")
    result = flctl("plot", "quad", "-y", "f", "--subtract", "f*", *where, "-o", "gap.svg")
    assert result.exit_code == 0, result.output
    drawn = (tmp_path / "gap.csv").read_text()
    flctl("plot", "quad", "-y", "f-f*", *where, "-o", "gap.svg")
    assert (tmp_path / "gap.csv").read_text() == drawn
    gaps = [float(row["y"]) for row in points(tmp_path / "gap.csv")]
    assert all(gap > 0 for gap in gaps)
    assert gaps[-1] < 0.1 * gaps[0]


def test_a_sweep_under_way_can_be_drawn(flctl: Flctl, runs_dir: Path, tmp_path: Path) -> None:
    """Runs that have measured nothing yet are left out, and told."""
    late = sorted((runs_dir / "quad").iterdir())[-1]
    (late / "metrics.jsonl").write_text("")
    result = flctl("plot", "quad", "--group", "algorithm.name", "-o", "a.svg")
    assert result.exit_code == 0, result.output
    assert "1 of 4 runs have measured nothing yet and are left out" in result.stderr
    assert {row["runs"] for row in points(tmp_path / "a.csv")} == {"3"}


def test_squares_and_differences(flctl: Flctl, runs_dir: Path, tmp_path: Path) -> None:
    """Of each point on its own; the CSV names what was drawn."""
    one = ("plot", "quad", "--where", "uplink.name=identity", "--where", "seed=1", "-x", "distance^2")
    assert flctl(*one, "-y", "grad_norm", "-o", "a.svg").exit_code == 0
    assert flctl(*one, "-y", "grad_norm^2", "-o", "b.svg").exit_code == 0
    assert flctl(*one, "-y", "grad_norm", "--subtract", "0.25", "-o", "c.svg").exit_code == 0
    plain, squares, less = (points(tmp_path / f"{name}.csv") for name in "abc")
    assert {(row["x_metric"], row["y_metric"]) for row in less} == {("distance^2", "grad_norm-0.25")}
    for row, square, difference in zip(plain, squares, less, strict=True):
        assert float(square["y"]) == float(row["y"]) ** 2
        assert float(difference["y"]) == float(row["y"]) - 0.25


def test_an_overlay_for_a_panel_that_is_not_there_is_told(flctl: Flctl, runs_dir: Path, tmp_path: Path) -> None:
    """It is not dropped in silence; the others are drawn."""
    (tmp_path / "o.csv").write_text("x,y,label,panel\n0,1,here,grad_norm\n0,1,there,accuracy\n")
    result = flctl("plot", "quad", "--overlay", "o.csv", "-o", "a.svg")
    assert result.exit_code == 0
    assert 'overlay there is not drawn: it is for the panel "accuracy", and there are "grad_norm"' in result.stderr
    assert {row["label"] for row in points(tmp_path / "a.csv") if row["kind"] == "overlay"} == {"here"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quad", "-o", "a.jpg"], "must end in .pdf, .png or .svg"),
        (["-o", "a.pdf"], "at least one RUN"),
        (["quad", "-y", "accuracy", "-o", "a.pdf"], 'has no metric "accuracy"; it measured'),
        (["quad", "-y", "f", "--label", "{algorithm.name}", "-o", "a.pdf"], '2 curves of one panel would be labelled'),
        (["quad", "--order", "uplnk", "-o", "a.pdf"], 'did you mean "uplink"'),
        (["quad", "--by", "seeds", "-o", "a.pdf"], 'did you mean "seed"'),
        (["quad", "--subtract", "f*", "-o", "a.pdf"], "is for -y f alone"),
        (["quad", "--subtract", "much", "-o", "a.pdf"], "must be a number or f*"),
        (["quad", "-y", "grad_norm-f*", "-o", "a.pdf"], "take f-f*"),
        (["quad", "--where", "seed=7", "-o", "a.pdf"], "no run meets"),
    ],
)  # fmt: skip
def test_mistakes_are_told_and_nothing_is_written(
    flctl: Flctl, runs_dir: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    """Exit code 2, one line, no file."""
    result = flctl("plot", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not list(tmp_path.glob("a.*"))


def test_order_and_group(flctl: Flctl, runs_dir: Path, tmp_path: Path) -> None:
    """Curves in the order asked for; all four runs as one where they are grouped so."""
    flctl("plot", "quad", "--order", "-bits_up", "-o", "a.png")
    assert points(tmp_path / "a.csv")[0]["label"] == "identity"
    flctl("plot", "quad", "--order", "bits_up", "-o", "a.png")
    assert points(tmp_path / "a.csv")[0]["label"] == "randk, k = 50%"
    flctl("plot", "quad", "--group", "algorithm.name", "--band", "quantiles", "-o", "a.png")
    assert {(row["label"], row["runs"]) for row in points(tmp_path / "a.csv")} == {("diana", "4")}
