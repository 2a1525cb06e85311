"""An experiment file read: TOML and `--set` to the runs it stands for, each complete and checked.

Whatever is wrong becomes one line that says which file, line and key, and what would be right.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import structs

from fl_core.errors import ExperimentError, nearest
from fl_core.experiment.building import build
from fl_core.experiment.checking import checked
from fl_core.experiment.places import Keys, Places, split_key
from fl_core.experiment.schema import ROLES, Experiment, PlugIn, Role, SourceFile
from fl_core.experiment.sweep import Variant, assign, expand, origin

_LARGEST_FILE = 1 << 20
_SHOWN = 8
"""Files of a folder that are listed."""


@dataclass(frozen=True)
class Override:
    """One `--set a.b=value`: its text, its path, its value."""

    text: str
    path: Keys
    value: Any


def read_experiments(path: Path | str, overrides: Iterable[str | Override] = ()) -> list[Experiment]:
    """Every run of an experiment file, in order, no two of them equal.

    Args:
        path: the file; the user's own files are looked for relative to it.
        overrides: texts `a.b=value`, the value as TOML has it, or a bare string; or these parsed. They win over file
        and sweep.

    Raises:
        ExperimentError: file, `--set`, key or value are wrong.
        UserCodeError: a user's file could not be imported.
    """
    path = Path(path)
    text = _text(path)
    given = [parse_override(each) if isinstance(each, str) else each for each in overrides]
    return runs_of(_document(text, path.name), path, Places(text), given)


def runs_of(document: dict[str, Any], path: Path, places: Places, overrides: list[Override]) -> list[Experiment]:
    """The runs of a document that has been parsed; `path` and `places` say where its keys came from."""
    try:
        document.setdefault("name", path.stem)
        for override in overrides:
            assign(document, override.path, override.value)
        pinned = [override.path for override in overrides]
        variants = expand(document, pinned)
    except ExperimentError as error:
        raise _placed(error, path.name, overrides, places.line(_keys(error))) from None
    runs: dict[tuple[str, str], Experiment] = {}
    for variant in variants:
        try:
            experiment = _experiment(variant, path, overrides)
        except ExperimentError as error:
            keys = _keys(error)
            line = places.line(keys, origin(document, variant.run, keys))
            raise _placed(error, path.name, overrides, line) from None
        runs.setdefault((experiment.digest(), experiment.label), experiment)
    return list(runs.values())


def _experiment(variant: Variant, path: Path, overrides: list[Override]) -> Experiment:
    for override in overrides:
        if override.path[0] not in ("sweep", "run"):
            assign(variant.tables, override.path, override.value)
    return checked(_with_sources(build(variant.tables), path.parent))


def _text(path: Path) -> str:
    """The file's text. Raises ExperimentError if there is none to read."""
    if path.is_dir():
        within = sorted(p.name for p in path.glob("*.toml"))
        listed = f"name a file in it: {', '.join(within[:_SHOWN])}{', …' if within[_SHOWN:] else ''}"
        raise ExperimentError(f"is a folder; {listed if within else 'there is no *.toml in it'}", file=str(path))
    if not path.is_file():
        beside = [p.name for p in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        raise ExperimentError("there is no such experiment file", file=str(path), suggestion=nearest(path.name, beside))
    if path.stat().st_size > _LARGEST_FILE:
        raise ExperimentError("is larger than 1 MiB: that is no experiment file", file=path.name)
    try:
        return path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise ExperimentError(f"cannot be read: {error}", file=path.name) from None


def _document(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"\(at line (\d+)", str(error))
        message = re.sub(r"\s*\(at .*\)$", "", str(error))
        raise ExperimentError(f"is no TOML: {message}", file=file, line=int(at[1]) if at else None) from None


def parse_override(text: str) -> Override:
    """`a.b=value`. The value is TOML; what is none is a string, unless it began as a list, table or string.

    Raises:
        ExperimentError: there is no "=", no key, or a value that only looks like TOML.
    """
    key, equals, value = text.partition("=")
    path = split_key(key)
    if not equals or not path:
        raise ExperimentError("must look like a.b=value", file=f"--set {text}")
    try:
        parsed = tomllib.loads(f"value = {value.strip()}")
    except tomllib.TOMLDecodeError as error:
        if value.strip()[:1] in ("[", "{", '"', "'"):
            message = re.sub(r"\s*\(at .*\)$", "", str(error))
            raise ExperimentError(f"the value is no TOML: {message}", file=f"--set {text}") from None
        parsed = {"value": value.strip()}
    return Override(text, path, parsed["value"] if parsed.keys() == {"value"} else value.strip())


def _keys(error: ExperimentError) -> Keys:
    return tuple(error.path.split(".")) if error.path else ()


def _placed(error: ExperimentError, file: str, overrides: list[Override], line: int | None) -> ExperimentError:
    """The error with where its key was given: on the command line, or on that line of the file."""
    keys = _keys(error)
    for override in reversed(overrides):
        shorter = min(len(override.path), len(keys))
        if shorter and override.path[:shorter] == keys[:shorter]:
            if override.path == keys and error.message.startswith("must be a string"):
                hint = f"{error.message}; quote it: --set \"{'.'.join(keys)}='{_value_text(override.text)}'\""
                error = ExperimentError(hint, path=error.path, suggestion=error.suggestion)
            return error.at(f"--set {override.text}", None)
    return error.at(file, line)


def _value_text(override: str) -> str:
    return override.partition("=")[2].strip()


def _with_sources(experiment: Experiment, folder: Path) -> Experiment:
    """The experiment with the text of every file it names, and these named without their folder."""
    sources: list[SourceFile] = []
    replaced: dict[str, Any] = {}
    for role in ROLES:
        table = getattr(experiment, role)
        plug = table if isinstance(table, PlugIn) else table.plug
        if plug.is_file:
            source = _source(plug.name, role, folder)
            sources.append(source)
            plug = PlugIn(source.name, plug.options)
            replaced[role] = plug if isinstance(table, PlugIn) else structs.replace(table, plug=plug)
    _refuse_namesakes(sources)
    return structs.replace(experiment, sources=tuple(sources), **replaced)


def _source(name: str, role: Role, folder: Path) -> SourceFile:
    path = folder / name
    if not path.is_file():
        beside = [p.relative_to(folder).as_posix() for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        message = f'there is no file "{name}" beside the experiment file'
        raise ExperimentError(message, path=f"{role}.name", suggestion=nearest(name, beside))
    try:
        return SourceFile.of(role, path.name, path.read_bytes().decode("utf-8"))
    except (UnicodeDecodeError, OSError) as error:
        raise ExperimentError(f'"{name}" cannot be read: {error}', path=f"{role}.name") from None


def _refuse_namesakes(sources: Iterable[SourceFile]) -> None:
    """Two different files of one name could not lie side by side in the run's folder."""
    by_name: dict[str, SourceFile] = {}
    for source in sources:
        if by_name.setdefault(source.name, source).sha256 != source.sha256:
            raise ExperimentError(f'two different files are named "{source.name}"', path=f"{source.role}.name")
