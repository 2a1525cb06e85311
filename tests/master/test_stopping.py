"""When a run ends before its last round."""

from __future__ import annotations

import math

import pytest

from master.stopping import divergence, is_reached


@pytest.mark.parametrize(
    ("found", "reached"),
    [
        ({"grad_norm": 1e-6}, True),
        ({"grad_norm": 2e-6}, False),
        ({"accuracy": 0.9}, True),
        ({"accuracy": 0.8, "grad_norm": 1.0}, False),
        ({"accuracy": 0.8, "grad_norm": 0.0}, True),
        ({"f": 0.0}, False),
        ({"grad_norm": math.nan}, False),
        ({}, False),
    ],
)
def test_one_threshold_is_enough(found: dict[str, float], reached: bool) -> None:
    """Accuracy from below, others from above; what was not measured stops nothing."""
    assert is_reached({"grad_norm": 1e-6, "accuracy": 0.9}, found) is reached


def test_nan_is_named_and_infinity_is_a_number() -> None:
    """The first that is NaN, with its round."""
    assert divergence(7, {"f": math.inf, "accuracy": 0.1}) == ""
    assert divergence(7, {"f": math.inf, "grad_norm": math.nan}).startswith("round 7: grad_norm is NaN")


def test_nan_at_the_start_is_the_data_s_or_the_model_s() -> None:
    """Before any step no step size can be at fault."""
    text = divergence(0, {"loss": math.nan})
    assert text.startswith("round 0: loss is NaN at the starting point, before any step: the data or the model")
    assert "step size" not in text
