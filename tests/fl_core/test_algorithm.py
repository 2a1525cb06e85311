"""The template: what a method declares, and what it does where it says nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fl_core import Algorithm, State, zeros
from fl_core.session import Session
from fl_core.state import fields_of


@dataclass(frozen=True)
class Sketch(Algorithm):
    """Declared as design.md writes it: nested classes without a base."""

    alpha: float = 0.5

    class ServerState:
        c: Tensor = zeros()
        k: int = 0

    class Memory:
        c_i: Tensor = zeros()

    class Broadcast:
        c: Tensor

    class Reply:
        delta: Tensor


@dataclass(frozen=True)
class Longer(Sketch):
    """A method over another: it adds to a record by inheriting from the other's."""

    class Reply(Sketch.Reply):  # type: ignore[misc,valid-type]
        dc: Tensor


def test_nested_bare_classes_are_records() -> None:
    """All four become State records with their fields, without a base or a decorator."""
    for name, fields in (
        ("ServerState", ("c", "k")),
        ("Memory", ("c_i",)),
        ("Broadcast", ("c",)),
        ("Reply", ("delta",)),
    ):
        record: Any = getattr(Sketch, name)
        assert issubclass(record, State)
        assert fields_of(record) == fields
    assert Sketch.Reply(delta=torch.ones(1)).delta == 1.0  # type: ignore[call-arg,attr-defined]


def test_records_are_inherited_and_extended() -> None:
    """What is not declared anew is the parent's; a record over the parent's has its fields first."""
    reply: Any = Longer.Reply
    assert fields_of(reply) == ("delta", "dc")
    assert fields_of(Sketch.Reply) == ("delta",)  # type: ignore[arg-type]
    assert Longer.Memory is Sketch.Memory


def test_nothing_declared_is_nothing_kept_or_sent() -> None:
    """The template's own records have no fields."""
    assert [fields_of(record) for record in (Algorithm.ServerState, Algorithm.Memory, Algorithm.Broadcast)] == [()] * 3


def test_hyper_parameters_are_frozen() -> None:
    """A method cannot change its hyper-parameters under way: whatever changes is state."""
    with pytest.raises(FrozenInstanceError):
        Sketch().alpha = 1.0  # type: ignore[misc]


def test_the_default_broadcast_is_what_server_and_clients_both_declare() -> None:
    """client_state sends the Broadcast's fields out of the ServerState, the same objects to every client."""
    c = torch.ones(3)
    server: Any = SimpleNamespace(state=Sketch.ServerState(c=c, k=4))  # type: ignore[call-arg]
    sent = Sketch().client_state(server, 7)
    assert fields_of(sent) == ("c",)
    assert sent.c is c
    assert fields_of(Algorithm().client_state(server, 7)) == ()


def test_other_defaults() -> None:
    """Participants are those sampled, steps are those of [local], the state stays, no theorem gives a step."""
    method, client, server = Sketch(), SimpleNamespace(steps=3), SimpleNamespace(state="state")
    assert method.participants(server, (1, 4)) == (1, 4)
    assert method.local_steps(client, None) == 3
    assert method.server_global_state(server, None, None) == "state"
    assert method.initialize_server_state(torch.zeros(2)) is None
    assert method.theoretical_step(None) is None


def test_default_optimizers(session: Callable[..., Session]) -> None:
    """client_opt and server_opt are the torch optimizers of [local] and [server]."""
    server = session(server={"optimizer": {"name": "sgd", "lr": 0.5}}).server()
    g = torch.ones(server.d, dtype=torch.float64)
    assert torch.equal(Sketch().server_opt(server, g), server.x - 0.5 * g)


@pytest.mark.parametrize("method", ["local_state", "server_gradient"])
def test_what_has_no_default_says_so(method: str) -> None:
    """The two methods that make a method raise an error that names class and signature."""
    arguments = (None,) * (4 if method == "local_state" else 2)
    with pytest.raises(NotImplementedError, match=rf"Sketch must define {method}\(self, "):
        getattr(Sketch(), method)(*arguments)
