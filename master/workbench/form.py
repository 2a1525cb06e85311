"""The forms: what an experiment may say, read off the schema's records and the plug-ins' signatures.

Nothing is listed here but which plug-ins a table may name: a new key of a record and a new file in a plug-in's folder
appear by themselves.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from msgspec import NODEFAULT, Struct, structs

from fl_core import plugins
from fl_core.errors import FlspanError
from fl_core.experiment.optimizers import SCHEDULES, optimizer_class, optimizer_names, optimizer_options
from fl_core.experiment.schema import CLIENT_METRICS, EVALUATED_METRICS, Experiment, PlugIn, SourceFile
from fl_core.options import MISSING, Option, options_of, words
from fl_core.regularizers import REGULARIZERS

PLUG_INS = {
    "data": "dataset",
    "data.partition": "partition",
    "model": "model",
    "model.regularizer": "regularizer",
    "local.optimizer": "optimizer",
    "server.optimizer": "optimizer",
    "server.schedule": "schedule",
    "algorithm": "algorithm",
    "uplink": "compressor",
    "downlink": "compressor",
}
"""Which kind of plug-in each table names."""

_HIDDEN = ("sources", "plug")
_BOOLEANS: tuple[Any, ...] = (bool,)


@dataclass(frozen=True)
class Field:
    """One key of a form.

    Attributes:
        path: dotted; ends in ".name" for the choice of a plug-in.
        annotation: what fits, as `fl_core.options` reads it.
        default: what holds when the key is left out; MISSING if it has to be given.
        choices: the values to choose from, or none.
        many: several of the choices may be taken.
        help: the hint, where it is not what fits.
    """

    path: str
    annotation: Any
    default: Any = MISSING
    choices: tuple[str, ...] = ()
    many: bool = False
    is_plug_in: bool = False
    help: str = ""

    @property
    def key(self) -> str:
        """The last part, which is what a form shows; of a plug-in, its table."""
        parts = self.path.split(".")
        if parts[0] == "stop":
            return "stop at " + parts[1]
        if self.path.startswith("@"):
            return self.path[1:].replace("_", "-")
        return parts[-2] if self.is_plug_in else parts[-1]

    @property
    def table(self) -> str:
        """The table it stands in."""
        return self.path.rpartition(".")[0]

    @property
    def is_switch(self) -> bool:
        """Whether it is true or false."""
        return self.annotation in _BOOLEANS

    @property
    def hint(self) -> str:
        """What fits, and what holds when nothing is given."""
        if self.help:
            return self.help
        if self.default is MISSING:
            return f"{_short(self.annotation)}; needed"
        if self.choices:  # the editor shows them
            return "" if self.default is None else f"[{_plain(self.default)}]"
        fits = _short(self.annotation)
        return fits if self.default in (None, "") else f"{fits}  [{_plain(self.default)}]"


def _short(annotation: Any) -> str:
    """What fits, in the few cells there are: `integer ≥ 1`."""
    said = words(annotation)
    for long, short in (("an integer", "integer"), ("a number", "number"), (" of at least ", " ≥ "),
                        (" greater than ", " > "), (" and at most ", " ≤ "), (" and less than ", " < "),
                        ("a string", "text"), ("true or false", ""), ("a percentage like ", "")):  # fmt: skip
        said = said.replace(long, short)
    return said


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


@dataclass(frozen=True)
class Section:
    """One page of the form."""

    name: str
    title: str
    about: str


def sections() -> list[Section]:
    """The pages: what stands above the tables, and then the tables, in the schema's order."""
    found = [Section("", "experiment", "One run, or with [sweep] several; what is here determines the numbers.")]
    hints = typing.get_type_hints(Experiment, include_extras=True)
    for name, annotation in hints.items():
        if _is_struct(annotation):
            found.append(Section(name, name, _first_sentence(annotation)))
        elif annotation is PlugIn:
            found.append(Section(name, name, _ABOUT.get(name, "")))
    return found


_ABOUT = {
    "algorithm": "The method, one file a paper; other keys are its own fields.",
    "uplink": "Compressor of what clients send.",
    "downlink": "Compressor of what the server sends.",
}


def fields(section: str, document: Mapping[str, Any], sources: Iterable[SourceFile] = ()) -> list[Field]:
    """The fields of a page, for the plug-ins that the document names now."""
    hints = typing.get_type_hints(Experiment, include_extras=True)
    if section and hints[section] is PlugIn:
        return _plug_in_fields(section, document, sources)
    kind = hints[section] if section else Experiment
    found: list[Field] = []
    if section in PLUG_INS:
        found += _plug_in_fields(section, document, sources)
    for field in structs.fields(kind):
        path = f"{section}.{field.name}" if section else field.name
        annotation = typing.get_type_hints(kind, include_extras=True)[field.name]
        if section and path in PLUG_INS:
            found += _plug_in_fields(path, document, sources)
        elif field.name == "stop":
            found += [Field(f"stop.{metric}", float, None) for metric in EVALUATED_METRICS]
        elif field.name not in _HIDDEN and annotation is not PlugIn and not _is_struct(annotation):
            found.append(_field(path, annotation, MISSING if field.default is NODEFAULT else field.default))
    return found


def _field(path: str, annotation: Any, default: Any) -> Field:
    if path == "clients.per_round":
        default = None  # all of them
    many = get_origin(annotation) is tuple and get_origin(get_args(annotation)[0]) is Literal
    choices = get_args(get_args(annotation)[0]) if many else _literal(annotation)
    if path == "evaluate.metrics":
        choices = tuple(name for name in choices if name in (*EVALUATED_METRICS, *CLIENT_METRICS))
    return Field(path, annotation, default, tuple(str(choice) for choice in choices), many)


def _literal(annotation: Any) -> tuple[Any, ...]:
    """The choices where there is nothing but choices."""
    if get_origin(annotation) in (typing.Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        return get_args(members[0]) if len(members) == 1 and get_origin(members[0]) is Literal else ()
    return get_args(annotation) if get_origin(annotation) is Literal else ()


# --- plug-ins -------------------------------------------------------------------------------------------------------


def _plug_in_fields(path: str, document: Mapping[str, Any], sources: Iterable[SourceFile]) -> list[Field]:
    kind = PLUG_INS[path]
    chosen = chosen_plug_in(path, document)
    known = names(kind)
    if chosen and chosen not in known:
        known = [*known, chosen]  # a file of the user's own
    default = default_plug_in(path)
    found = [Field(f"{path}.name", str, default, tuple(known), is_plug_in=True)]
    options = options_for(kind, chosen, sources) if chosen else {}
    ours = default_options(path) if _at(path, document) is None else {}
    return found + [
        _option_field(f"{path}.{key}", Option(option.type, ours.get(key, option.default)))
        for key, option in options.items()
    ]


def _option_field(path: str, option: Option) -> Field:
    return Field(path, option.type, option.default, tuple(str(choice) for choice in _literal(option.type)))


def _at(path: str, document: Mapping[str, Any]) -> Any:
    found: Any = document
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def chosen_plug_in(path: str, document: Mapping[str, Any]) -> str | None:
    """The plug-in that the document names there, or the default; None where none has to be named."""
    found = _at(path, document)
    if isinstance(found, Mapping):
        found = found.get("name")
    return found if isinstance(found, str) else default_plug_in(path)


def default_plug_in(path: str) -> str | None:
    """The name that holds where the table is left out."""
    default = _default(path)
    return default.name if default else None


def default_options(path: str) -> dict[str, Any]:
    """The options that hold where the table is left out."""
    default = _default(path)
    return dict(default.options) if default else {}


def _default(path: str) -> PlugIn | None:
    table, _, key = path.partition(".")
    kind = typing.get_type_hints(Experiment)[table] if key else Experiment
    default = next(field.default for field in structs.fields(kind) if field.name == (key or table))
    return default if isinstance(default, PlugIn) else None


def names(kind: str) -> list[str]:
    """What there is of a kind."""
    if kind == "optimizer":
        return optimizer_names()
    if kind in ("schedule", "regularizer"):
        return list(SCHEDULES if kind == "schedule" else REGULARIZERS)
    return plugins.names(kind)


def import_all() -> None:
    """Import every plug-in: what a page would wait for when it is first opened (data sets bring scikit-learn)."""
    for kind in dict.fromkeys(PLUG_INS.values()):
        names(kind)


def options_for(kind: str, name: str, sources: Iterable[SourceFile] = ()) -> dict[str, Option]:
    """The options of a plug-in; none where it cannot be had (the check of the draft says why)."""
    try:
        if kind == "optimizer":
            return optimizer_options(name)
        if kind == "schedule":
            return SCHEDULES.get(name, {})
        if kind == "regularizer":
            return options_of(REGULARIZERS[name]) if name in REGULARIZERS else {}
        return options_of(plugins.resolve(kind, name, sources), context=plugins.CONTEXT[kind])
    except FlspanError:
        return {}


def about(kind: str, name: str) -> str:
    """The first sentence of a plug-in's documentation."""
    try:
        if kind == "optimizer":
            return _first_sentence(optimizer_class(name))
        if kind == "regularizer":
            return _first_sentence(REGULARIZERS[name])
        if kind == "schedule" or name.endswith(".py"):
            return ""
        return _first_sentence(plugins.module(kind, name))
    except (FlspanError, KeyError):
        return ""


def _first_sentence(documented: Any) -> str:
    doc = inspect.getdoc(documented) or ""
    paragraph = " ".join(doc.split("\n\n")[0].split())
    sentence = re.sub(r"^\[\w+\]: ", "", paragraph.partition(". ")[0].removesuffix("."))
    sentence = sentence.removeprefix("Implements ")  # as torch's optimizers begin
    return sentence[:1].upper() + sentence[1:]


def _is_struct(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Struct) and annotation is not PlugIn


__all__ = [
    "PLUG_INS",
    "Field",
    "Section",
    "about",
    "chosen_plug_in",
    "default_options",
    "default_plug_in",
    "fields",
    "import_all",
    "names",
    "options_for",
    "sections",
]
