"""What an algorithm keeps and sends: four small typed records, declared inside it.

`ServerState` stays on the server, `Memory` stays with one client between its rounds, `Broadcast` goes from the server
to the clients beside x, `Reply` comes back. A field is a tensor (by default of shape `[d]`) or a plain number.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, dataclass_transform

import torch
from torch import Tensor

from compressors.compressor import placed
from fl_core.errors import PlugInError, nearest

Number = int | float | bool
R = TypeVar("R", bound="State")


@dataclass(frozen=True)
class Zeros:
    """A declared initial value: zeros of a shape, `[d]` where none is given."""

    shape: tuple[int, ...] | None = None


def zeros(shape: tuple[int, ...] | None = None) -> Any:
    """The initial value of a declared field: zeros `[d]`, or of the given shape (`()` for one number)."""
    return Zeros(shape)


@dataclass_transform()
@dataclass(eq=False)
class State:
    """Base of the four records. A subclass becomes a dataclass by being written.

    Raises:
        AttributeError: a field is assigned that is not declared: nobody would keep or send it.
        TypeError: it is made without a declared field, or with one that is not declared.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = "__init__" in cls.__dict__
        dataclass(eq=False)(cls)
        if not own:
            cls.__init__ = _explained(cls.__init__)  # type: ignore[method-assign]

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.__dataclass_fields__ and not inspect.isdatadescriptor(getattr(type(self), name, None)):
            raise AttributeError(unknown_field(type(self), name))
        object.__setattr__(self, name, value)


def _explained(make: Any) -> Any:
    """A record's `__init__` whose errors name the record, its fields, and what is missing."""

    @wraps(make)
    def checked(self: State, *values: Any, **named: Any) -> None:
        try:
            make(self, *values, **named)
        except TypeError:
            record, declared = type(self), fields_of(self)
            for name in named:
                if name not in declared:
                    raise TypeError(unknown_field(record, name)) from None
            defaults = {f.name for f in dataclasses.fields(record) if f.default is not dataclasses.MISSING}
            lacking = [name for name in declared[len(values) :] if name not in {*named, *defaults}]
            if not lacking:
                raise
            given = f"{title(record)}({', '.join(f'{name}=…' for name in declared)})"
            raise TypeError(f"{title(record)} was made without {', '.join(lacking)}; write {given}") from None

    return checked


def title(record: type[State]) -> str:
    """What a record is called in a message: `MyMethod.Memory`."""
    return record.__qualname__.rpartition("<locals>.")[2]


def unknown_field(record: type[State], name: str) -> str:
    """That a record has no field of that name; which it has, and the nearest."""
    declared = fields_of(record)
    near = nearest(name, declared)
    hint = f'; did you mean "{near}"?' if near else ""
    has = f"it declares {', '.join(declared)}" if declared else "it declares none"
    return f'{title(record)} has no field "{name}"{hint} ({has})'


def as_record(name: str, body: type) -> type[State]:
    """A nested class that was written without its base, made the record it means."""
    if issubclass(body, State):
        return body
    bases = tuple(base for base in body.__bases__ if base is not object)
    members = {key: value for key, value in body.__dict__.items() if key not in ("__dict__", "__weakref__")}
    return type(name, (*bases, State), members | {"__qualname__": body.__qualname__})


def fields_of(record: type[State] | State) -> tuple[str, ...]:
    """Names of the declared fields, in order."""
    return tuple(field.name for field in dataclasses.fields(record))


def initial_values(record: type[State], owner: str) -> dict[str, Zeros | Number]:
    """The declared initial value of every field.

    Raises:
        PlugInError: a field has none, or one that is neither `zeros()` nor a number.
    """
    values: dict[str, Zeros | Number] = {}
    for field in dataclasses.fields(record):
        if not isinstance(field.default, Zeros | int | float | bool):
            raise PlugInError(
                f"{owner}.{record.__name__}.{field.name} needs an initial value: write `{field.name}: Tensor = zeros()`"
            )
        values[field.name] = field.default
    return values


def initial(record: type[R], owner: str, d: int, dtype: torch.dtype) -> R:
    """A record with every declared field at its initial value: zeros become tensors `[d]`, numbers stay numbers."""
    values = initial_values(record, owner)
    return record(**{name: materialize(value, d, dtype) for name, value in values.items()})


def materialize(value: Zeros | Number, d: int, dtype: torch.dtype) -> Tensor | Number:
    """The tensor or number that a declared initial value stands for."""
    if isinstance(value, Zeros):
        return torch.zeros((d,) if value.shape is None else value.shape, dtype=dtype)
    return value


def as_tensor(value: Tensor | Number) -> Tensor:
    """A field's value as a tensor; a number keeps all its bits (float64, int64, bool)."""
    return torch.tensor(value, dtype=torch.float64) if isinstance(value, float) else torch.as_tensor(value)


def tensor_or_none(value: Any) -> Tensor | None:
    """The same of anything a user may have assigned; None where it is no number and no tensor."""
    try:
        return as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def settled(memory: State, start: State, owner: str) -> dict[str, Tensor]:
    """A client's Memory at the end of its round, as tensors of the declared shapes and types.

    Args:
        start: the Memory with its initial values: what is declared.

    Raises:
        PlugInError: a field was given something else than its initial value says it is.
    """
    kept: dict[str, Tensor] = {}
    for name, declared in as_dict(start).items():
        value, like = tensor_or_none(getattr(memory, name)), as_tensor(declared)
        if value is None or value.shape != like.shape or not torch.can_cast(value.dtype, like.dtype):
            raise PlugInError(
                f"{owner}.Memory.{name} starts as {shown(declared)} and was given {shown(getattr(memory, name))}; "
                "declare the initial value it needs: zeros(), zeros(shape), 0.0, 0 or False"
            )
        kept[name] = value.detach().to(like.device, like.dtype)
    return kept


def recalled(record: type[R], rows: Mapping[str, Tensor], start: R) -> R:
    """A client's Memory at the start of its round, in tensors of its own: what `settled` made tensors of."""
    fields = as_dict(start)
    for name, value in rows.items():
        declared = fields[name]
        if not isinstance(declared, Tensor):
            fields[name] = value.item()
        elif declared.device == value.device:
            fields[name] = value.clone()
        else:
            fields[name] = placed(value, declared.device)
    return record(**fields)


def shown(value: Any) -> str:
    """A value in a message: a tensor by its type and shape."""
    return f"a {value.dtype} tensor {list(value.shape)}" if isinstance(value, Tensor) else f"{value!r:.80}"


def as_dict(record: State) -> dict[str, Any]:
    """Field name -> value, without copying."""
    return {name: getattr(record, name) for name in fields_of(record)}
