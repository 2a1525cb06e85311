"""Series from elsewhere: how they are read, picked and scaled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from master.plotting.overlays import read_overlay
from protocol.errors import InputError


def test_a_csv_is_split_by_label_and_panel(tmp_path: Path) -> None:
    """Lines of a series need not be together; without a label it is called as the file."""
    path = tmp_path / "published.csv"
    path.write_text("x,y,label,panel\n0,1,a,f\n0,2,b,\n1,0.5,a,f\n")
    a, b = read_overlay(str(path), x_scale=32.0)
    assert (a.curve.label, a.panel, a.curve.x.tolist(), a.curve.y.tolist()) == ("a", "f", [0.0, 32.0], [1.0, 0.5])
    assert (b.curve.label, b.panel) == ("b", "")
    path.write_text("x,y\n0,1\n")
    assert read_overlay(str(path))[0].curve.label == "published"


def test_series_of_the_paper_are_picked_by_their_keys(tmp_path: Path) -> None:
    """The layout of published_curves.json: `xs`, `ys`, `series`, and conditions after a #."""
    curves = [
        {"figure": "2", "local_steps": steps, "series": name, "x": "floats", "xs": [1, 2], "ys": [3, 4]}
        for steps in (1, 5)
        for name in ("identity", "randk")
    ]
    path = tmp_path / "published.json"
    path.write_text(json.dumps({"about": "x", "curves": curves}))
    assert len(read_overlay(str(path))) == 4
    picked = read_overlay(f"{path}#figure=2&local_steps=5")
    assert [overlay.curve.label for overlay in picked] == ["identity", "randk"]
    with pytest.raises(InputError, match="no such series"):
        read_overlay(f"{path}#figure=9")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "x,z\n1,2\n", "it has no 'y'"),
        ("a.csv", "x,y\n1,two\n", "could not convert"),
        ("a.json", '[{"x": [1], "y": [1, 2]}]', "1 values of x for 2 of y"),
        ("a.json", "[1]", "no list of series"),
        ("a.json", "{", "Expecting"),
    ],
)
def test_a_bad_file_is_told(tmp_path: Path, name: str, text: str, message: str) -> None:
    """What is wrong, and what it needs."""
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_overlay(str(path))
    with pytest.raises(InputError, match="cannot be read"):
        read_overlay(str(tmp_path / "none.csv"))
