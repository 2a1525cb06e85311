"""Plug-ins are files: a file's name is the plug-in's name, so there is no registry to edit.

Ours lie in the folders of `FOLDERS` and are found by listing them. A user's own file comes as text
(`SourceFile`), is written to a folder of the run and imported by its path under a name of its own, so that
neither her `algorithms/` nor her `random.py` can take the place of anyone else's module.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeAlias

from fl_core.errors import BREAKS, InputError, PlugInError, UserCodeError, nearest
from fl_core.experiment.schema import CLIENT_METRICS, EVALUATED_METRICS, ROUND_METRICS, Role, SourceFile
from fl_core.options import options_of, takes_any

Kind: TypeAlias = Literal["algorithm", "compressor", "dataset", "model", "partition"]
PlugInTarget: TypeAlias = Callable[..., Any]

FOLDERS: dict[str, str] = {
    "algorithm": "algorithms",
    "compressor": "compressors",
    "dataset": "fl_core.datasets",
    "model": "fl_core.models",
    "partition": "fl_core.partitions",
}
KIND_OF: dict[Role, Kind] = {
    "data": "dataset",
    "model": "model",
    "algorithm": "algorithm",
    "uplink": "compressor",
    "downlink": "compressor",
}
"""Which kind of plug-in each table of an experiment names."""

_BASES = {
    "algorithm": ("fl_core.algorithm", "Algorithm"),
    "compressor": ("compressors.compressor", "Compressor"),
}
_FUNCTIONS = {"dataset": "load", "model": "build", "partition": "split"}
CONTEXT: dict[str, tuple[str, ...]] = {
    "dataset": ("data_root", "clients", "seed", "dtype"),
    "model": ("inputs", "outputs"),
    "partition": ("targets", "clients", "generator", "ids"),
    "algorithm": (),
    "compressor": (),
}
"""What the caller of a plug-in's function knows itself: given to those that name it, no option of theirs."""

HOUSE = ("protocol", "compressors", "fl_core", "algorithms", "master", "worker", "deploy")
_importing = threading.Lock()


def names(kind: str) -> list[str]:
    """The names an experiment may use for one kind of plug-in (or "metric"), sorted."""
    if kind == "metric":
        return sorted((*EVALUATED_METRICS, *CLIENT_METRICS, *ROUND_METRICS))
    return sorted(path.stem.replace("_", "-") for path in _files(kind) if _target(kind, _imported(kind, path.stem)))


def _files(kind: str) -> list[Path]:
    folder = _folder(kind)
    return [path for path in folder.glob("*.py") if not path.name.startswith("_")]


def _folder(kind: str) -> Path:
    return Path(__file__).resolve().parents[1].joinpath(*FOLDERS[kind].split("."))


def _imported(kind: str, stem: str) -> ModuleType:
    return importlib.import_module(f"{FOLDERS[kind]}.{stem}")


def module(kind: str, name: str) -> ModuleType:
    """The module of one of our plug-ins. Raises PlugInError, with the nearest name, if there is none."""
    stem = name.casefold().replace("-", "_")
    if stem.isidentifier() and (_folder(kind) / f"{stem}.py").is_file():
        found = _imported(kind, stem)
        if _target(kind, found) is not None:
            return found
    near = nearest(name, names(kind))
    hint = f'did you mean "{near}"?' if near else f"there are: {', '.join(names(kind))}"
    raise PlugInError(f'there is no {kind} "{name}"; {hint}')


def resolve(kind: str, name: str, sources: Iterable[SourceFile] = (), folder: Path | None = None) -> PlugInTarget:
    """What a plug-in is: its function `load`, `build` or `split`, or its subclass of Algorithm or Compressor.

    Args:
        kind: "algorithm" | "compressor" | "dataset" | "model" | "partition".
        name: one of ours, or that of a user's file (it ends in ".py") among `sources`.
        sources: the experiment's own files.
        folder: where a user's file is written to; without one, a folder that goes away with the process.

    Raises:
        PlugInError: there is none, or the file has no such function or class, or two such classes.
        UserCodeError: the user's file raised while it was imported.
    """
    if not name.endswith(".py"):
        found = module(kind, name)
        return _the_target(kind, found, name)
    source = next((s for s in sources if s.name == name and KIND_OF[s.role] == kind), None)
    if source is None:
        raise PlugInError(f'the experiment names the file "{name}", but its text did not come with it')
    return _the_target(kind, user_module(source, folder or private_folder()), name)


def call(kind: str, target: PlugInTarget, context: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """Call a plug-in's function with its options, and with what it names of the context."""
    named = options_of(target)
    return target(**{key: value for key, value in context.items() if key in named}, **options)


def _the_target(kind: str, found: ModuleType, name: str) -> PlugInTarget:
    target = _target(kind, found)
    if target is not None:
        _check_declared(target, name)
        return target
    if kind in _FUNCTIONS:
        raise PlugInError(f"{name} has no function {_FUNCTIONS[kind]}(...); a {kind} needs one")
    classes = _subclasses(kind, found)
    has = f"has {len(classes)}: {', '.join(c.__name__ for c in classes)}" if classes else "has none"
    raise PlugInError(f"{name} must hold exactly one subclass of {_BASES[kind][1]}, and {has}")


def _check_declared(target: PlugInTarget, name: str) -> None:
    """Options are the fields of a dataclass: what a plain class annotates would be none, and nobody would say so."""
    if not isinstance(target, type) or "__dataclass_fields__" in vars(target):
        return
    declared = [key for key, kind in inspect.get_annotations(target).items() if "ClassVar" not in str(kind)]
    if declared:
        raise PlugInError(
            f"{name}: {target.__name__} declares {', '.join(declared)}, but only a dataclass has options: "
            f"put @dataclass(frozen=True) above class {target.__name__}"
        )


def _target(kind: str, found: ModuleType) -> PlugInTarget | None:
    """What makes the module a plug-in of that kind; None if it is none."""
    if kind in _FUNCTIONS:
        function = getattr(found, _FUNCTIONS[kind], None)
        return function if inspect.isfunction(function) else None
    classes = _subclasses(kind, found)
    return classes[0] if len(classes) == 1 else None


def _subclasses(kind: str, found: ModuleType) -> list[type]:
    """The public, concrete subclasses that the module itself defines: what it imports to build upon does not count."""
    where, name = _BASES[kind]
    base = getattr(importlib.import_module(where), name)
    return [
        c
        for c in vars(found).values()
        if isinstance(c, type) and issubclass(c, base) and c is not base
        if c.__module__ == found.__name__ and not c.__name__.startswith("_") and not inspect.isabstract(c)
    ]


def user_module(source: SourceFile, folder: Path) -> ModuleType:
    """The user's file, written below `folder` and imported by its path, once a process for each text.

    Its lines stay on disk under her file's name, so that a traceback shows them.

    Raises:
        UserCodeError: it raised, or is no Python.
    """
    name = f"flspan_user_{source.sha256[:16]}"
    with _importing:
        if name in sys.modules:
            return sys.modules[name]
        path = folder / source.sha256[:16] / Path(source.name).name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source.text, encoding="utf-8", newline="")
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise PlugInError(f"{source.name} is no Python file")
        found = importlib.util.module_from_spec(spec)
        sys.modules[name] = found  # dataclasses look their module up while it is being imported
        try:
            spec.loader.exec_module(found)
        except BaseException as error:  # a user's code may even leave the interpreter
            del sys.modules[name]
            if isinstance(error, BREAKS):
                raise
            raise UserCodeError.of(error, files=[str(path)]) from error
        return found


_kept: list[tempfile.TemporaryDirectory[str]] = []


@cache
def private_folder() -> Path:
    """A folder of this process alone, for the user's files; it goes away with the process."""
    holder = tempfile.TemporaryDirectory(prefix="flspan-")
    _kept.append(holder)
    return Path(holder.name)


def verify_house() -> None:
    """Check that the seven packages that Python finds are ours and not a user's folders of the same names.

    Raises:
        InputError: one is not; the text names the folder that stands in its way.
    """
    home = Path(__file__).resolve().parents[1]
    for name in HOUSE:
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise InputError(f"the package {name} is missing beside {home / 'fl_core'}: install flspan again")
        found = [Path(place).resolve() for place in spec.submodule_search_locations or [spec.origin or ""]]
        if home / name not in found[:1]:
            raise InputError(
                f"{found[0]} shadows flspan's own package {name} ({home / name}): "
                "rename it, or start from another folder"
            )


__all__ = [
    "CONTEXT",
    "FOLDERS",
    "HOUSE",
    "KIND_OF",
    "Kind",
    "call",
    "module",
    "names",
    "options_of",
    "private_folder",
    "resolve",
    "takes_any",
    "user_module",
    "verify_house",
]
