"""A small right experiment file, and how tests read what they make of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fl_core.errors import ExperimentError
from fl_core.experiment.reading import read_experiments

GOOD = """\
name = "t"
rounds = 3

[data]
name = "digits"
partition = { name = "dirichlet", alpha = 0.3 }

[model]
name = "logistic"

[clients]
total = 10
per_round = 5

[local]
batch_size = 20
optimizer = { name = "sgd", lr = 0.1 }

[algorithm]
name = "fedavg"
"""


@pytest.fixture
def good() -> str:
    """The text of a right experiment file."""
    return GOOD


@pytest.fixture
def written() -> Callable[[Path, str], Path]:
    """Puts a text into a folder as `t.toml`."""
    return _write


def _write(folder: Path, text: str) -> Path:
    path = folder / "t.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def error_of() -> Callable[..., str]:
    """The one line that a wrong file in a folder gets, read with these overrides."""

    def read(folder: Path, text: str, *overrides: str) -> str:
        with pytest.raises(ExperimentError) as caught:
            read_experiments(_write(folder, text), overrides)
        line = str(caught.value)
        assert "\n" not in line
        return line

    return read
