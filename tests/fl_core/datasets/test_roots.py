"""Where data sets are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl_core.datasets.roots import SYSTEM_FOLDERS, VARIABLES, cache_folder, missing, roots


def test_the_order_of_search(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """--data-root, then the environment in its order, then the system, then this user's cache."""
    for variable in VARIABLES:
        monkeypatch.setenv(variable, f"/data/{variable}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = roots(tmp_path / "given")
    environment = [Path(f"/data/{variable}") for variable in VARIABLES]
    assert found == [tmp_path / "given", *environment, *SYSTEM_FOLDERS, cache_folder()]
    assert cache_folder() == tmp_path / "flspan" / "datasets"
    for variable in VARIABLES:
        monkeypatch.delenv(variable)
    assert roots(None) == [*SYSTEM_FOLDERS, cache_folder()]


def test_a_missing_set_is_one_line() -> None:
    """It says which files to put where."""
    text = str(missing("Fashion-MNIST", ["a.gz", "b.gz"], [Path("/x"), Path("/y"), Path("/x")]))
    assert text == (
        "the data set Fashion-MNIST is not on this machine: put a.gz, b.gz in one of /x, /y (or say --data-root FOLDER)"
    )
