"""The options a plug-in takes, read off its signature or its fields, and whether a value given for one fits.

The annotation is the rule: `alpha: Positive` refuses -1 with "must be a number greater than 0, not -1".
Nothing has to be declared twice, so a new plug-in is checked as soon as its file exists.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, Union, get_args, get_origin

from msgspec import Meta

from fl_core.errors import ExperimentError, nearest

Count: TypeAlias = Annotated[int, Meta(ge=1)]
Whole: TypeAlias = Annotated[int, Meta(ge=0)]
Positive: TypeAlias = Annotated[float, Meta(gt=0)]
NonNegative: TypeAlias = Annotated[float, Meta(ge=0)]
Probability: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Chance: TypeAlias = Annotated[float, Meta(gt=0, le=1)]
Percentage: TypeAlias = Annotated[
    str, Meta(pattern=r"^\s*(\d+(\.\d*)?|\.\d+)\s*%\s*$", description='a percentage like "10%"')
]

MISSING: Any = inspect.Parameter.empty
"""The default of an option that has to be given."""


class MismatchError(ValueError):
    """A value that does not fit; the text is the rest of the sentence that begins with the key."""

    def __init__(self, message: str, suggestion: str | None = None) -> None:
        super().__init__(message)
        self.message, self.suggestion = message, suggestion


class Option(NamedTuple):
    """One option: its annotation, and its default (`MISSING` if it has to be given)."""

    type: Any
    default: Any


def spelling(name: str) -> str:
    """A name as it is compared: hyphen is underscore, case does not count."""
    return name.casefold().replace("_", "-")


def shown(value: Any) -> str:
    """A value as the experiment file spells it, cut to one short piece of a line."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def fitted(value: Any, annotation: Any) -> Any:
    """The value as `annotation` has it (an integer becomes a float where a float is asked for), JSON-able.

    Raises:
        MismatchError: it does not fit.
    """
    ok, result = _fit(value, annotation)
    if ok:
        return result
    items = _items(annotation)
    if items is not None and isinstance(value, list | tuple):
        raise _wrong_list(value, items, annotation)
    if items and items[-1] is Ellipsis and _fit(value, items[0])[0]:
        raise MismatchError(f"must be {words(annotation)}, not {shown(value)}; write [{shown(value)}]")
    choices = [choice for choice in _choices(annotation) if isinstance(choice, str)]
    suggestion = nearest(value, choices) if isinstance(value, str) else None
    raise MismatchError(f"must be {words(annotation)}, not {shown(value)}", suggestion)


def _wrong_list(value: Any, items: tuple[Any, ...], annotation: Any) -> MismatchError:
    """The error for a list that does not fit: it names the first wrong item, and the choice it was meant to be."""
    types_of_items = [items[0]] * len(value) if items[-1] is Ellipsis else list(items)
    if len(types_of_items) != len(value):
        return MismatchError(f"must be a list of {len(types_of_items)} values, not {shown(value)}")
    wrong = [(k, item) for k, item in enumerate(value) if not _fit(item, types_of_items[k])[0]]
    if not wrong:  # the list as a whole is out of range
        return MismatchError(f"must be {words(annotation)}, not {shown(value)}")
    position, item = wrong[0]
    choices = [choice for choice in _choices(types_of_items[position]) if isinstance(choice, str)]
    if not (choices and isinstance(item, str)):
        wanted = words(types_of_items[position])
        return MismatchError(f"item {position + 1} of the list must be {wanted}, not {shown(item)}")
    near = nearest(item, choices)
    return MismatchError(f"{shown(item)} is none of them" + ("" if near else f": {', '.join(choices)}"), near)


def _items(annotation: Any) -> tuple[Any, ...] | None:
    """The types of a list's items: (type, ...) for any number of one type. None where no list fits."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _items(args[0])
    if origin in (Union, types.UnionType):
        return next((items for items in map(_items, args) if items is not None), None)
    kind = origin or annotation
    if not isinstance(kind, type) or issubclass(kind, Mapping | str) or not issubclass(kind, Iterable):
        return None
    if issubclass(kind, tuple) and args:
        return args
    return (args[0] if args else Any, Ellipsis)


_NO: tuple[bool, Any] = (False, None)


def _fit(value: Any, annotation: Any) -> tuple[bool, Any]:
    """(whether it fits, the value to keep)."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        ok, result = _fit(value, args[0])
        return (True, result) if ok and all(_within(result, meta) for meta in args[1:]) else _NO
    if origin in (Union, types.UnionType):
        return next((fit for fit in (_fit(value, member) for member in args) if fit[0]), _NO)
    if origin is Literal:
        return next(((True, choice) for choice in args if _is_choice(value, choice)), _NO)
    kind = origin or annotation
    if kind in _PLAIN:
        return _PLAIN[kind](value)
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return (True, value) if isinstance(value, Mapping) else _NO
    if isinstance(kind, type) and issubclass(kind, Iterable):
        return _fit_items(value, kind, args)
    return True, value  # an annotation this module has no rule for: the plug-in must judge itself


def _fit_items(value: Any, kind: type, args: tuple[Any, ...]) -> tuple[bool, Any]:
    if not isinstance(value, list | tuple):
        return _NO
    if issubclass(kind, tuple) and args and args[-1] is not Ellipsis:
        types_of_items: Iterable[Any] = args
        if len(args) != len(value):
            return _NO
    else:
        types_of_items = [args[0] if args else Any] * len(value)
    fits = [_fit(item, item_type) for item, item_type in zip(value, types_of_items, strict=True)]
    return (True, [result for _, result in fits]) if all(ok for ok, _ in fits) else _NO


def _fit_float(value: Any) -> tuple[bool, Any]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (True, float(value)) if number and math.isfinite(value) else _NO


_PLAIN: dict[Any, Callable[[Any], tuple[bool, Any]]] = {
    Any: lambda value: (True, value),
    MISSING: lambda value: (True, value),
    type(None): lambda value: (value is None, value),
    bool: lambda value: (isinstance(value, bool), value),
    int: lambda value: (isinstance(value, int) and not isinstance(value, bool), value),
    float: _fit_float,
    str: lambda value: (isinstance(value, str), value),
}


def _is_choice(value: Any, choice: Any) -> bool:
    if isinstance(value, str) and isinstance(choice, str):
        return spelling(value) == spelling(choice)
    return type(value) is type(choice) and value == choice


def _within(value: Any, meta: Any) -> bool:
    if not isinstance(meta, Meta):
        return True
    return (
        (meta.ge is None or value >= meta.ge)
        and (meta.gt is None or value > meta.gt)
        and (meta.le is None or value <= meta.le)
        and (meta.lt is None or value < meta.lt)
        and (meta.pattern is None or re.search(meta.pattern, value) is not None)
    )


def _choices(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [choice for member in get_args(annotation) for choice in _choices(member)]


_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
}


def words(annotation: Any) -> str:
    """What fits, in words: "an integer of at least 1", '"sgd" or "adam"'."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        meta = next((m for m in args[1:] if isinstance(m, Meta)), Meta())
        return meta.description or words(args[0]) + _range_words(meta)
    if origin in (Union, types.UnionType):
        return " or ".join(words(member) for member in args if member is not type(None))
    if origin is Literal:
        return " or ".join(shown(choice) for choice in args)
    kind = origin or annotation
    if kind in _WORDS:
        return _WORDS[kind]
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return "a table"
    return "a list" if isinstance(kind, type) and issubclass(kind, Iterable) else "a value"


def _range_words(meta: Meta) -> str:
    low = f" of at least {meta.ge}" if meta.ge is not None else ""
    low = f" greater than {meta.gt}" if meta.gt is not None else low
    high = f"at most {meta.le}" if meta.le is not None else ""
    high = f"less than {meta.lt}" if meta.lt is not None else high
    return low + (" and " if low and high else " of " if high else "") + high


def options_of(target: Callable[..., Any], context: Iterable[str] = ()) -> dict[str, Option]:
    """The options of a function (its named parameters) or a dataclass (its fields).

    Args:
        target: a function or a dataclass.
        context: names of what the caller passes itself: those are no options.
    """
    if dataclasses.is_dataclass(target):
        found = {f.name: _default_of(f) for f in dataclasses.fields(target) if f.init}
        hints = _hints(target)
    else:
        positional, named = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
        parameters = inspect.signature(target).parameters.values()
        found = {p.name: p.default for p in parameters if p.kind in (positional, named)}
        hints = _hints(vars(target)["__init__"] if isinstance(target, type) else target)
    left_out = frozenset(context)
    return {n: Option(hints.get(n, Any), default) for n, default in found.items() if n not in left_out}


def takes_any(target: Callable[..., Any]) -> bool:
    """Whether a function takes options it does not name (`**options`): then no key can be called unknown."""
    if dataclasses.is_dataclass(target):
        return False
    kinds = {p.kind for p in inspect.signature(target).parameters.values()}
    return inspect.Parameter.VAR_KEYWORD in kinds


def _default_of(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return MISSING if field.default_factory is dataclasses.MISSING else field.default_factory()


def _hints(target: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}  # a name imported for the type checker only: the plug-in must judge its values itself


def check_options(
    given: Mapping[str, Any], known: Mapping[str, Option], *, path: str, owner: str, open_ended: bool = False
) -> dict[str, Any]:
    """The options given, each as its annotation has it.

    Args:
        given: what the experiment file says.
        known: what the plug-in takes, from `options_of`.
        path: dotted path of the table the options stand in.
        owner: the plug-in's name, for the text of an error.
        open_ended: the plug-in takes options it does not name.

    Raises:
        ExperimentError: an unknown option, one that does not fit, or a needed one that is not given.
    """
    checked = {}
    for name, value in given.items():
        here = f"{path}.{name}"
        if name not in known and not open_ended:
            raise unknown(name, known, here, f'"{owner}" has no such option')
        try:
            checked[name] = fitted(value, known[name].type) if name in known else value
        except MismatchError as error:
            raise ExperimentError(error.message, path=here, suggestion=error.suggestion) from None
    for name, option in known.items():
        if option.default is MISSING and name not in given:
            raise ExperimentError(f'missing: "{owner}" needs it, {words(option.type)}', path=f"{path}.{name}")
    return checked


def unknown(name: str, known: Iterable[str], path: str, message: str = "unknown key") -> ExperimentError:
    """The error for a key that is not one of `known`: with the nearest, or with all of them."""
    known = list(known)
    suggestion = nearest(name, known)
    if suggestion is None:
        message += f"; there are: {', '.join(known)}" if known else "; there are none"
    return ExperimentError(message, path=path, suggestion=suggestion)
