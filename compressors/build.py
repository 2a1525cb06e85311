"""Compressors by name: the files of this folder, and their options from an experiment file's table."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from compressors.compressor import Compressor, CompressorOptionError


def names() -> list[str]:
    """Every compressor there is, as experiment files spell it: "natural-dithering"."""
    files = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")
    return [name.replace("_", "-") for name in files if operator_in(_module(name)) is not None]


def operator_in(module: ModuleType) -> type[Compressor] | None:
    """The one public, concrete Compressor a module defines; None if there is none, or several."""
    found = [
        value
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, Compressor)
        and value.__module__ == module.__name__
        and not name.startswith("_")
        and not inspect.isabstract(value)
    ]
    return found[0] if len(found) == 1 else None


def build(name: str, options: Mapping[str, Any]) -> Compressor:
    """The compressor `name` (hyphen = underscore) with `options`; entries of `of` may be tables, names or built.

    Raises CompressorOptionError, with the nearest name, for a name or option there is not.
    """
    known = names()
    spelled = name.replace("_", "-")
    if spelled not in known:
        raise CompressorOptionError(f'there is no compressor "{name}"{_nearest(spelled, known)}')
    operator = operator_in(_module(spelled.replace("-", "_")))
    assert operator is not None, spelled
    return configure(operator, options, name=spelled)


def configure(operator: type[Compressor], options: Mapping[str, Any], *, name: str) -> Compressor:
    """An operator class (ours or a user's) with options from a table; `name` is for the error text."""
    try:
        fields = {field.name: field for field in dataclasses.fields(operator) if field.init}  # type: ignore[arg-type]
    except TypeError:
        raise CompressorOptionError(f"{name}: {operator.__name__} must be a frozen dataclass") from None
    for option in options:
        if option not in fields:
            raise CompressorOptionError(f'{name} has no option "{option}"{_nearest(option, fields)}')
    for option, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and option not in options:
            raise CompressorOptionError(f'{name} needs the option "{option}"')
    given = dict(options)
    if "of" in given:
        given["of"] = _built(given["of"], name)
    built = operator(**given)
    assert isinstance(built, Compressor)
    return built


def _built(parts: Any, name: str) -> list[Compressor]:
    """The entries of `of`, each a table with a name, a bare name, or a compressor already built."""
    if isinstance(parts, str | Mapping) or not isinstance(parts, Iterable):
        raise CompressorOptionError(f'{name}: `of` must be a list, like [{{ name = "natural" }}]')
    built: list[Compressor] = []
    for part in parts:
        if isinstance(part, Compressor):
            built.append(part)
        elif isinstance(part, str):
            built.append(build(part, {}))
        elif isinstance(part, Mapping) and isinstance(part.get("name"), str):
            built.append(build(part["name"], {key: part[key] for key in part if key != "name"}))
        else:
            raise CompressorOptionError(f"{name}: {part!r} in `of` needs a name")
    return built


def _module(stem: str) -> ModuleType:
    return importlib.import_module(f"compressors.{stem.replace('-', '_')}")


def _nearest(word: str, known: Iterable[str]) -> str:
    choices = sorted(known)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f"; there are: {', '.join(choices)}" if choices else "; it takes none"
