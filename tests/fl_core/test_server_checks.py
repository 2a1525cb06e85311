"""What the server side of a method returns is checked, with the method's class, the template method and the line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from compressors.identity import Identity
from fl_core import State
from fl_core.errors import UserCodeError
from fl_core.experiment.schema import Experiment
from fl_core.server import Server
from tests.fl_core.momentum import D, Method

MakeExperiment = Callable[..., Experiment]


def faulty(**methods: Any) -> type[Method]:
    """Method with these in place of its own."""
    return dataclass(frozen=True)(type("Faulty", (Method,), methods))


def finished(experiment: Experiment, kind: type[Method]) -> None:
    """One round of the method, in which nobody takes part."""
    server = Server(kind(), experiment, torch.zeros(D), Identity(), Identity())
    server.begin_round(1)
    server.finish_round([])


def state(**changes: Any) -> Callable[..., Any]:
    """A server_global_state that gives fields other values."""
    return lambda self, server, replies, g: self.ServerState(**{"v": g, "count": 1, "rate": 0.1} | changes)


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        (
            {"server_gradient": lambda *a: None},
            r"Faulty\.server_gradient must return .* = \[6\], not None$",
        ),
        ({"server_gradient": lambda s, _, r: r.mean("delta")[:3]}, r"server_gradient must .* \[6\], not a .* \[3\]$"),
        (
            {"server_gradient": lambda s, _, r: r.mean("detla")},
            r'Method\.Reply has no field "detla"; did you mean "delta"',
        ),
        ({"server_opt": lambda *a: 1.0}, r"Faulty\.server_opt must return a tensor \[d\] = \[6\], not 1\.0$"),
        ({"client_state": lambda *a: None}, r"Faulty\.client_state must return self\.Broadcast\(\.\.\.\), not None$"),
        (
            {"server_global_state": lambda *a: None},
            r"Faulty\.server_global_state must return self\.ServerState\(\.\.\.\), or server\.state .*, not None$",
        ),
        (
            {"server_global_state": state(v=torch.ones(2))},
            r"Faulty\.server_global_state gave Method\.ServerState\.v the value a torch\.float32 tensor \[2\]; "
            r"it must be a torch\.float32 tensor \[6\], as it starts$",
        ),
        ({"server_global_state": state(v=torch.ones(D).double())}, r"ServerState\.v the value a torch\.float64 tensor"),
        ({"server_global_state": state(count="one")}, r"ServerState\.count the value 'one'; it must be a number"),
        (
            {"initialize_server_state": lambda *a: 3},
            r"Faulty\.initialize_server_state must return .* or None .*, not 3$",
        ),
        (
            {"initialize_server_state": lambda self, x: self.ServerState(v=x[:2])},
            r"Faulty\.initialize_server_state gave Method\.ServerState\.v the value a torch\.float32 tensor \[2\]",
        ),
    ],
)
def test_what_the_server_side_returns_is_checked(
    experiment: MakeExperiment, methods: dict[str, Any], said: str
) -> None:
    """None, another type, shape or field: the method's class, the template method, what was expected, and the line."""
    with pytest.raises(UserCodeError, match=said) as raised:
        finished(experiment(model={"dtype": "float32"}), faulty(**methods))
    if "detla" not in said:
        assert raised.value.file == __file__
        assert raised.value.line > 0


def test_a_state_without_initial_values_stays_as_it_was_first(experiment: MakeExperiment) -> None:
    """A field that only initialize_server_state makes must keep its shape too."""

    class Grown(Method):
        class ServerState(State):
            v: Tensor
            count: int = 0
            rate: float = 0.1

        def initialize_server_state(self, x: Tensor) -> Any:
            return self.ServerState(v=torch.ones(2))

    finished_with = {"server_global_state": state(v=torch.ones(3))}
    with pytest.raises(UserCodeError, match=r"it must be a torch\.float32 tensor \[2\], as it starts$"):
        finished(experiment(model={"dtype": "float32"}), type("Worse", (Grown,), finished_with))


@pytest.mark.parametrize("method", ["server_gradient", "server_opt", "server_global_state"])
def test_x_is_not_the_method_s_to_write(experiment: MakeExperiment, method: str) -> None:
    """The evaluation of the round before reads it meanwhile: a number would depend on who is faster."""
    own = getattr(Method, method)

    def writes(self: Any, server: Server, *given: Any) -> Any:
        server.x.sub_(0.1)
        return own(self, server, *given)

    with pytest.raises(UserCodeError, match=rf"Faulty\.{method} changes server\.x in place"):
        finished(experiment(model={"dtype": "float32"}), faulty(**{method: writes}))
