"""`flctl show --partition`: the text, the numbers, the picture, of a file and of a run."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from fl_core.partitions.counts import Counts
from master.flctl.partition import lines, table_csv

Flctl = Callable[..., Result]
TOML = """
name = "digits"
rounds = 1
[data]
name = "digits"
partition = { name = "sorted" }
[model]
name = "logistic"
[clients]
total = 12
[algorithm]
name = "fedavg"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An experiment file."""
    path = tmp_path / "digits.toml"
    path.write_text(TOML)
    return path


def test_the_text_has_a_row_a_class_and_a_column_a_client(flctl: Flctl, file: Path) -> None:
    """Sorted digits: each client has samples of two classes at most, the shades lie on a diagonal."""
    said = flctl("show", "--partition", str(file)).stdout.splitlines()
    assert said[0] == "digits, sorted, seed 0: 1,438 samples, 12 clients"
    assert any(line.split()[:3] == ["classes", "a", "client"] for line in said)
    rows = [line[8:] for line in said if line[:6].strip().isdigit() and not line.startswith("classes")]
    assert len(rows) == 10
    assert all(len(row.rstrip()) <= 12 for row in rows)
    columns = [[row.ljust(12)[client] != " " for row in rows] for client in range(12)]
    assert all(1 <= sum(column) <= 2 for column in columns)
    firsts = [column.index(True) for column in columns]
    assert firsts == sorted(firsts)


def test_json_has_every_count(flctl: Flctl, file: Path) -> None:
    """For programs: labels, and a row of counts a client."""
    record = json.loads(flctl("show", "--partition", "--json", str(file)).stdout)
    assert record["labels"] == list(range(10))
    assert np.array(record["counts"]).shape == (12, 10)
    assert np.array(record["counts"]).sum() == 1438


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_the_picture_and_its_numbers(flctl: Flctl, file: Path, tmp_path: Path, suffix: str) -> None:
    """The picture is of its kind; the CSV beside it holds all counts that are not zero."""
    output = tmp_path / f"out{suffix}"
    flctl("show", "--partition", str(file), "-o", str(output))
    starts = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}
    assert output.read_bytes().startswith(starts[suffix])
    with output.with_suffix(".csv").open() as text:
        rows = list(csv.DictReader(text))
    assert sum(int(row["samples"]) for row in rows) == 1438
    assert {row["label"] for row in rows} == {str(k) for k in range(10)}


def test_a_run_is_shown_too(flctl: Flctl, runs_dir: Path) -> None:
    """Of a stored run, by its own experiment.toml: regression has sizes alone."""
    run = next(path for path in sorted((runs_dir / "quad").iterdir()))
    said = flctl("show", "--partition", str(run)).stdout
    assert "quadratic, in its own clients: 24 samples, 4 clients" in said
    assert "classes a client" not in said


@pytest.mark.parametrize(("n", "classes"), [(300, 100), (5, 0), (40, 3)])
def test_many_clients_share_columns_and_any_shape_is_drawn(tmp_path: Path, n: int, classes: int) -> None:
    """No line is wider than a column's share allows, and bubbles, heat map and sizes alone all draw."""
    from master.plotting.partition import save

    table = np.random.Generator(np.random.PCG64(1)).integers(1, 9, (n, classes or 1))
    counts = Counts(table, tuple(range(classes)))
    save(counts, "t", tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_size > 1000
    wide = Counts(np.repeat(table, 40, axis=0), counts.labels)
    said = lines(wide, "t")
    assert max(map(len, said)) <= 110
    assert any("a column" in line for line in said) is (40 * n > 300)
    assert len(table_csv(counts).splitlines()) == 1 + table.size


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["show", "nothing.toml", "--partition"], "there is no such experiment file"),
        (["show", "{file}", "--partition", "-o", "out.txt"], "must end in .pdf, .png or .svg"),
        (["show", "{file}", "-o", "out.png"], "say --partition too"),
    ],
)
def test_mistakes(flctl: Flctl, file: Path, arguments: list[str], text: str) -> None:
    """One line each, exit code 2."""
    result = flctl(*(word.format(file=file) for word in arguments))
    assert result.exit_code == 2
    assert text in result.stderr
