"""`[execution] precision = "bfloat16"`: the same bytes wherever clients run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fl_core.errors import ExperimentError
from fl_core.execution.choice import ChosenRunner, Fusing
from fl_core.reference import run_reference
from fl_core.session import Session

MakeSession = Callable[..., Session]
MakeLoop = Callable[..., Any]


def test_the_same_bytes_as_the_reference(
    session: MakeSession, loop: MakeLoop, caplog: pytest.LogCaptureFixture
) -> None:
    """Client by client, over the wire and where fusing is asked for, which falls back with one line; not float32's."""
    shape: dict[str, Any] = {"clients": {"total": 12, "per_round": 12}, "rounds": 3}
    model = {"name": "linear", "loss": "mse", "dtype": "float32"}
    table = {"cohort": 12, "precision": "bfloat16", "fuse": "always"}
    s = session(model=model, execution=table, **shape)
    expected = list(run_reference(s))[-1][0].x
    assert torch.equal(loop(s).run().x, expected)
    assert torch.equal(loop(s, over_wire=True).run().x, expected)
    made = loop(s)
    chosen = ChosenRunner(made.runner, Fusing("always"))
    made.execute = lambda round, work: chosen.run(round.broadcast, work)
    with caplog.at_level(logging.WARNING, "flspan.execution"):
        assert torch.equal(made.run().x, expected)
    assert [record.getMessage() for record in caplog.records] == [
        'clients run one by one: [execution] precision = "bfloat16": autocast rounds many clients at once otherwise'
    ]
    exact = list(run_reference(session(model=model, execution={"cohort": 12}, **shape)))[-1][0].x
    assert not torch.equal(exact, expected)
    assert torch.allclose(exact, expected, rtol=0.1, atol=0.05)


def test_it_is_for_float32(session: MakeSession) -> None:
    """autocast leaves float64 alone, so saying both is a mistake."""
    with pytest.raises(ExperimentError, match="bfloat16"):
        session(model={"name": "linear", "loss": "mse", "dtype": "float64"}, execution={"precision": "bfloat16"})
