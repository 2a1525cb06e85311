"""torch.optim by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fl_core.errors import ExperimentError
from fl_core.experiment.optimizers import (
    check_optimizer,
    check_schedule,
    optimizer_class,
    optimizer_names,
    optimizer_options,
)
from fl_core.experiment.schema import PlugIn


@pytest.mark.parametrize("name", optimizer_names())
def test_every_optimizer_offered_moves_one_flat_vector(name: str) -> None:
    """A name we accept works: on one vector, by its gradient, without a closure."""
    x = torch.ones(3)
    x.grad = torch.tensor([1.0, 2.0, -1.0])
    options: dict[str, Any] = {"lr": 0.1}
    optimizer_class(name)([x], **options).step()
    assert torch.isfinite(x).all()
    assert not torch.equal(x, torch.ones(3))


@pytest.mark.parametrize("name", ["lbfgs", "sparseadam", "muon", "optimizer"])
def test_what_cannot_move_a_flat_vector_is_not_offered(name: str) -> None:
    """A closure, sparse gradients or a matrix is more than a flat vector has."""
    with pytest.raises(ExperimentError, match="there is no optimizer"):
        optimizer_class(name)


def test_spelling_does_not_count() -> None:
    """RMSprop, rmsprop and RMS-Prop are one optimizer."""
    assert {optimizer_class(name) for name in ("RMSprop", "rmsprop", "RMS-Prop")} == {torch.optim.RMSprop}


def test_options_are_the_constructor_s_without_those_of_the_implementation() -> None:
    """momentum is a method's option; foreach and fused are the executor's affair."""
    options = optimizer_options("sgd")
    assert {"lr", "momentum", "weight_decay", "nesterov"} <= options.keys()
    assert not options.keys() & {"params", "foreach", "fused", "differentiable", "capturable", "maximize"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lr": 0.1, "betas": [0.9]}, "[local] optimizer.betas: must be a list of 2 values, not [0.9]"),
        (
            {"lr": 0.1, "betas": [0.9, 2.0]},
            "[local] optimizer: torch refuses it: Invalid beta parameter at index 1: 2.0",
        ),
        ({"lr": 0.1, "amsgrad": 1}, "[local] optimizer.amsgrad: must be true or false, not 1"),
    ],
)  # fmt: skip
def test_an_option_torch_would_refuse_later_is_refused_now(options: dict[str, object], text: str) -> None:
    """Types and ranges, as torch has them, before the first round."""
    with pytest.raises(ExperimentError) as caught:
        check_optimizer(PlugIn("adam", options), "local.optimizer")
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("plug", "text"),
    [
        (PlugIn("cosin", {}), '[server] schedule.name: there is no schedule "cosin"; did you mean "cosine"?'),
        (
            PlugIn("step", {"size": 3}),
            '[server] schedule.size: "step" has no such option; did you mean "step_size"?',
        ),
        (
            PlugIn("linear", {"end_factor": 2}),
            "[server] schedule.end_factor: must be a number of at least 0 and at most 1, not 2",
        ),
    ],
)
def test_a_wrong_schedule(plug: PlugIn, text: str) -> None:
    """Schedules are checked as plug-ins are."""
    with pytest.raises(ExperimentError) as caught:
        check_schedule(plug, "server.schedule")
    assert str(caught.value) == text
