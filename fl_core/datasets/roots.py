"""Where the files of a data set are looked for: one order for all of them.

--data-root, then the environment (FLMASTER_DATA_ROOT, FLWORKER_DATA_ROOT, FLSPAN_DATA_ROOT), then the folders
where systems put data sets, then this user's cache.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from fl_core.errors import MissingDataError

VARIABLES = ("FLMASTER_DATA_ROOT", "FLWORKER_DATA_ROOT", "FLSPAN_DATA_ROOT")
SYSTEM_FOLDERS = (Path("/usr/share/datasets"), Path("/usr/local/share/datasets"))


def cache_folder() -> Path:
    """This user's own folder for what we unpack: $XDG_CACHE_HOME/flspan/datasets, else below ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "flspan" / "datasets"


def roots(data_root: Path | str | None) -> list[Path]:
    """The folders to look in, first to last, whether they exist or not; `data_root` first where given."""
    given = [data_root] if data_root is not None else []
    given += [value for variable in VARIABLES if (value := os.environ.get(variable))]
    return [*(Path(root).expanduser() for root in given), *SYSTEM_FOLDERS, cache_folder()]


def find_file(path: str, data_root: Path | str | None, name: str) -> Path:
    """A file an experiment names: absolute, or relative to a root or to the current folder.

    Raises:
        MissingDataError: it is in none of them; `name` is the data set's, for the text.
    """
    given = Path(path).expanduser()
    if given.is_absolute():
        if given.is_file():
            return given
        raise missing(name, [given.name], [given.parent])
    folders = [*roots(data_root), Path.cwd()]
    for folder in folders:
        if (folder / given).is_file():
            return folder / given
    raise missing(name, [path], folders)


def filled_once(target: Path, fill: Callable[[Path], None]) -> Path:
    """The folder `target`, filled whole or not at all.

    Processes that do it at once each fill one of their own; the first wins, the others use what it made.
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unpacking-") as private:
        folder = Path(private) / "set"
        folder.mkdir()
        fill(folder)
        try:
            folder.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    return target


def missing(name: str, files: Iterable[str], where: Iterable[Path]) -> MissingDataError:
    """The one line for a data set that is in none of the roots: what to put where."""
    folders = ", ".join(str(folder) for folder in dict.fromkeys(where))
    return MissingDataError(
        f"the data set {name} is not on this machine: put {', '.join(files)} in one of {folders} "
        "(or say --data-root FOLDER)"
    )
