"""Around the user's own code: what it raises becomes a UserCodeError with her file and line, our own errors pass."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fl_core.errors import BREAKS, USER_MODULE, FlspanError, InputError, UserCodeError
from fl_core.experiment.schema import PlugIn


@contextmanager
def in_code_of(table: PlugIn) -> Iterator[None]:
    """Errors in the call of a user's function become UserCodeErrors with her line; our own pass as they are."""
    try:
        yield
    except (InputError, *BREAKS):
        raise
    except BaseException as error:  # a user's code may even leave the interpreter
        if not table.is_file:
            raise
        raise UserCodeError.of(error, files=user_files(table.name)) from error


@contextmanager
def in_user_code(client: int | None = None, files: Iterable[str] | None = None) -> Iterator[None]:
    """What a method of an algorithm raises becomes a UserCodeError with the user's line; our own errors pass.

    Args:
        client: for whom it runs.
        files: the user's own files; all she has given, where none are named.
    """
    try:
        yield
    except (FlspanError, *BREAKS):
        raise
    except BaseException as error:
        raise UserCodeError.of(error, files=user_files() if files is None else files, client=client) from error


def user_files(*names: str) -> tuple[str, ...]:
    """Paths under which this process has imported the user's files (of these names, or all of them)."""
    found = [
        str(module.__file__)
        for key, module in list(sys.modules.items())
        if key.startswith(USER_MODULE) and getattr(module, "__file__", None)
    ]
    return tuple(path for path in found if not names or Path(path).name in {Path(n).name for n in names})
