"""What an algorithm keeps and sends: four small typed records, declared inside it.

`ServerState` stays on the server, `Memory` stays with one client between its rounds, `Broadcast` goes from the server
to the clients beside x, `Reply` comes back. A field is a tensor (by default of shape `[d]`) or a plain number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, dataclass_transform

import torch
from torch import Tensor

from fl_core.errors import PlugInError

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
    """Base of the four records. A subclass becomes a dataclass by being written."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        dataclass(eq=False)(cls)


def as_record(name: str, body: type) -> type[State]:
    """A nested class that was written without its base, made the record it means."""
    if issubclass(body, State):
        return body
    bases = tuple(base for base in body.__bases__ if base is not object)
    members = {key: value for key, value in body.__dict__.items() if key not in ("__dict__", "__weakref__")}
    return type(name, (*bases, State), members)


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


def settled(memory: State, start: State, owner: str) -> dict[str, Tensor]:
    """A client's Memory at the end of its round, as tensors of the declared shapes and types.

    Args:
        start: the Memory with its initial values: what is declared.

    Raises:
        PlugInError: a field was given something else than its initial value says it is.
    """
    kept: dict[str, Tensor] = {}
    for name, declared in as_dict(start).items():
        value, like = as_tensor(getattr(memory, name)), as_tensor(declared)
        if value.shape != like.shape or not torch.can_cast(value.dtype, like.dtype):
            raise PlugInError(
                f"{owner}.Memory.{name} starts as {_shown(declared)} and was given {_shown(getattr(memory, name))}; "
                "declare the initial value it needs: zeros(), zeros(shape), 0.0, 0 or False"
            )
        kept[name] = value.detach().to(like.device, like.dtype)
    return kept


def recalled(record: type[R], rows: Mapping[str, Tensor], start: R) -> R:
    """A client's Memory at the start of its round, in tensors of its own: what `settled` made tensors of."""
    fields = as_dict(start)
    for name, value in rows.items():
        declared = fields[name]
        fields[name] = value.to(declared.device, copy=True) if isinstance(declared, Tensor) else value.item()
    return record(**fields)


def _shown(value: Any) -> str:
    return f"a {value.dtype} tensor {list(value.shape)}" if isinstance(value, Tensor) else repr(value)


def as_dict(record: State) -> dict[str, Any]:
    """Field name -> value, without copying."""
    return {name: getattr(record, name) for name in fields_of(record)}
