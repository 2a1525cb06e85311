"""The texts of errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl_core.errors import ExperimentError, FlspanError, InputError, UserCodeError, nearest
from fl_core.experiment.schema import SourceFile
from fl_core.plugins import user_module


@pytest.mark.parametrize(
    ("name", "valid", "found"),
    [
        ("lrr", ["lr", "steps"], "lr"),
        ("adma", ["adamax", "adam"], "adam"),
        ("PP_Marina", ["pp-marina", "marina"], "pp-marina"),
        ("quantum", ["lr", "steps"], None),
        ("", ["lr"], None),
    ],
)
def test_the_nearest_name(name: str, valid: list[str], found: str | None) -> None:
    """A slip of the fingers finds its name; something else finds nothing."""
    assert nearest(name, valid) == found


def test_an_experiment_error_is_one_line() -> None:
    """File, line, key, what is wrong, what would be right; whatever is not known is left out."""
    error = ExperimentError("unknown key", path="local.lrr", suggestion="lr")
    assert str(error) == '[local] lrr: unknown key; did you mean "lr"?'
    assert str(error.at("digits.toml", 14)) == 'digits.toml:14: [local] lrr: unknown key; did you mean "lr"?'
    assert str(error.at("--set local.lrr=1", None)).startswith("--set local.lrr=1: [local] lrr: ")
    assert isinstance(error, InputError)


def test_a_user_s_error_names_her_line_and_client() -> None:
    """The deepest line of hers, though the error came from further down, and whom it ran for."""

    def hers() -> None:
        int("x")  # the line that counts

    try:
        hers()
    except ValueError as error:
        found = UserCodeError.of(error, files=[__file__], client=3, worker="gpu1:7000")
        line = error.__traceback__.tb_next.tb_lineno  # type: ignore[union-attr]
    assert str(found) == (
        f"{__file__}:{line}: ValueError: invalid literal for int() with base 10: 'x' (client 3, worker gpu1:7000)"
    )
    assert 'int("x")' in found.traceback_text
    assert isinstance(found, FlspanError)
    assert not isinstance(found, InputError)


def test_a_syntax_error_has_its_line_too() -> None:
    """A file that is no Python has no traceback of its own; the error itself says where."""
    try:
        compile("x = (\n", "my_algorithm.py", "exec")
    except SyntaxError as error:
        found = UserCodeError.of(error, files=["my_algorithm.py"])
    assert (found.file, found.line) == ("my_algorithm.py", 1)


def test_her_files_are_called_as_she_named_them(tmp_path: Path) -> None:
    """Not by the path of a copy that is gone; and the innermost of them is named, listed or not."""
    model = user_module(SourceFile.of("model", "net.py", "def forward(x):\n    return int(x)\n"), tmp_path)
    method = user_module(SourceFile.of("algorithm", "mine.py", "def step(f):\n    return f('x')\n"), tmp_path)
    try:
        method.step(model.forward)
    except ValueError as error:
        found = UserCodeError.of(error, files=[str(method.__file__)])
    assert (found.file, found.line) == ("net.py", 2)
    assert 'File "mine.py", line 2, in step' in found.traceback_text
    assert str(tmp_path) not in found.traceback_text
    again = UserCodeError("x", file=str(model.__file__), line=3)  # as a worker's report has it
    assert str(again) == "net.py:3: x"


def test_an_error_whose_text_cannot_be_made() -> None:
    """It is told by its type, and by why it has no text."""

    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    assert str(UserCodeError.of(MuteError(), files=())) == "MuteError: its own text raises RuntimeError"
