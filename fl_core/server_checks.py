"""What a method's server side returns: is it a ServerState as declared, and a vector `[d]`? Asked every round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from fl_core.errors import UserCodeError
from fl_core.state import Zeros, fields_of, shown, title

if TYPE_CHECKING:
    from fl_core.algorithm import Algorithm

Kind: TypeAlias = tuple[tuple[int, ...], torch.dtype | None]
"""Shape and type of a field; no type where it is a number."""


class StateCheck:
    """What the fields of a method's ServerState must be: as its initial values are.

    Args:
        first: the state before the first round; it says what fields are that declare no initial value.

    Raises:
        UserCodeError: that state is not what the class declares.
    """

    def __init__(self, algorithm: Algorithm, first: Any, d: int, dtype: torch.dtype) -> None:
        self._algorithm = type(algorithm)
        self._record = algorithm.ServerState
        self._names = fields_of(self._record)
        self._kinds: dict[str, Kind] = {}
        for name, declared in self._record.__dataclass_fields__.items():
            if isinstance(declared.default, Zeros | int | float):
                self._kinds[name] = _declared(declared.default, d, dtype)
        self.check(first, "initialize_server_state")
        self._kinds = {name: _kind(getattr(first, name)) for name in self._names} | self._kinds

    def check(self, state: Any, method: str) -> None:
        """Raises UserCodeError: the method has returned something else, or a field of another shape or type."""
        if not isinstance(state, self._record):
            text = f"must return self.ServerState(...){_UNCHANGED.get(method, '')}, not {shown(state)}"
            raise UserCodeError.of_method(self._algorithm, method, text)
        for name in self._names:
            value = getattr(state, name)
            expected = self._kinds.get(name)
            if not isinstance(value, Tensor | int | float) or (expected is not None and not _fits(value, expected)):
                text = f"gave {title(self._record)}.{name} the value {shown(value)}; it must be {_told(expected)}"
                raise UserCodeError.of_method(self._algorithm, method, text)


_UNCHANGED = {
    "initialize_server_state": ", or None for the declared initial values",
    "server_global_state": ", or server.state where nothing changes",
}


def _declared(start: Zeros | int | float, d: int, dtype: torch.dtype) -> Kind:
    if not isinstance(start, Zeros):
        return (), None
    return (d,) if start.shape is None else tuple(start.shape), dtype


def _kind(value: Tensor | int | float) -> Kind:
    return (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else ((), None)


def _fits(value: Tensor | int | float, expected: Kind) -> bool:
    shape, dtype = expected
    if not isinstance(value, Tensor):
        return shape == ()
    return value.shape == shape and (dtype is None or value.dtype == dtype)


def _told(expected: Kind | None) -> str:
    if expected is None:
        return "a tensor or a number"
    shape, dtype = expected
    return "a number, as it starts" if dtype is None else f"a {dtype} tensor {list(shape)}, as it starts"


def check_vector(value: Any, like: Tensor, algorithm: Algorithm, method: str) -> None:
    """Raises UserCodeError: the method has returned something else than a vector `[d]` like this one."""
    if not isinstance(value, Tensor) or value.shape != like.shape:
        text = f"must return a tensor [d] = {list(like.shape)}, not {shown(value)}"
        raise UserCodeError.of_method(type(algorithm), method, text)


def check_unwritten(x: Tensor, version: int, algorithm: Algorithm, method: str) -> None:
    """Raises UserCodeError: the method has written into x, which the evaluation and the saver read meanwhile.

    Args:
        version: `x._version` before it was called.
    """
    if x._version != version:
        text = "changes server.x in place, but the evaluation and checkpoints share it: return a vector of your own"
        raise UserCodeError.of_method(type(algorithm), method, text)


__all__ = ["StateCheck", "check_unwritten", "check_vector"]
