"""What a client hands over at the end of its local work: is it a Reply, of numbers, finite, and like the others'?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fl_core.client import Message
from fl_core.errors import FlspanError, PlugInError, UserCodeError
from fl_core.state import State, as_dict, as_tensor, fields_of, shown, tensor_or_none

if TYPE_CHECKING:
    from fl_core.algorithm import Algorithm


class NonFiniteReplyError(FlspanError):
    """A client's reply holds NaN or inf: the method diverges, or its code is wrong."""


SMALLER = "try a smaller step size, or look at the client's data"


def check_reply(reply: Any, algorithm: Algorithm, client: int) -> None:
    """Whether LocalState has returned a Reply of tensors, messages and numbers.

    Raises:
        PlugInError: it is no Reply. UserCodeError: a field is something else; it says which, and whose.
    """
    if not isinstance(reply, State):
        owner = type(algorithm).__name__
        raise PlugInError(f"{owner}.local_state must return self.Reply(...), not {type(reply).__name__}")
    declared = fields_of(algorithm.Reply)
    if type(reply) is not algorithm.Reply and fields_of(reply) != declared:
        has = ", ".join(declared) or "no fields"
        text = f"must return self.Reply(...) with {has}, not a {type(reply).__qualname__}"
        raise UserCodeError.of_method(type(algorithm), "local_state", text, client=client)
    for name in declared:
        value = getattr(reply, name)
        if not isinstance(value, Tensor | Message | int | float) and tensor_or_none(value) is None:
            text = f"gave Reply.{name} the value {shown(value)}; a field is a tensor, a message of client.compress, "
            raise UserCodeError.of_method(type(algorithm), "local_state", f"{text}or a number", client=client)
        if isinstance(value, Message) and not value.is_unwritten:
            text = f"changes the value of the message Reply.{name} in place, which may be what is sent: work on a copy"
            raise UserCodeError.of_method(type(algorithm), "local_state", text, client=client)


def check_finite(reply: State, client: int, round: int) -> None:
    """Raises NonFiniteReplyError, with the field's name. A device is waited for once."""
    asked: list[tuple[str, Tensor]] = []
    for name, value in as_dict(reply).items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
            asked += [(name, extreme) for extreme in torch.aminmax(value)]
    there = [(name, extreme) for name, extreme in asked if extreme.is_cuda]
    if there:  # of several types perhaps, as they are waited for together
        fetched = torch.stack([extreme.double() for _, extreme in there]).cpu().unbind()
        asked = [(name, extreme) for name, extreme in asked if not extreme.is_cuda]
        asked += [(name, extreme) for (name, _), extreme in zip(there, fetched, strict=True)]
    for name, extreme in asked:
        if not torch.isfinite(extreme):
            raise NonFiniteReplyError(f"round {round}, client {client}: Reply.{name} holds NaN or inf; {SMALLER}")


class Alike:
    """Whether the clients of a cohort send values of the same shapes. A message is always `[d]`."""

    def __init__(self, algorithm: Algorithm) -> None:
        self._algorithm = algorithm
        self._names = fields_of(algorithm.Reply)
        self._first: dict[str, tuple[int, tuple[int, ...]]] = {}

    def check(self, reply: State, client: int) -> None:
        """Raises UserCodeError: a field is shaped otherwise than a client's before it."""
        for name in self._names:
            value = getattr(reply, name)
            if isinstance(value, Message):
                continue
            shape = value.shape if isinstance(value, Tensor) else as_tensor(value).shape
            other, expected = self._first.setdefault(name, (client, shape))
            if shape != expected:
                text = (
                    f"gave Reply.{name} the shape {list(shape)} for client {client} and {list(expected)} for client "
                    f"{other}; all clients of a round must send values of one shape: pad them, or send messages"
                )
                raise UserCodeError.of_method(type(self._algorithm), "local_state", text, client=client)


__all__ = ["SMALLER", "Alike", "NonFiniteReplyError", "check_finite", "check_reply"]
