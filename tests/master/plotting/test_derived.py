"""What may be drawn of a metric beside itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from master.flctl.stored_run import StoredRun
from master.plotting.derived import Derived, series
from master.plotting.metric_words import words


@pytest.mark.parametrize(
    ("metric", "base", "less", "is_squared"),
    [
        ("grad_norm", "grad_norm", "", False),
        ("grad_norm^2", "grad_norm", "", True),
        ("f-f*", "f", "f*", False),
        ("f-0.25", "f", "0.25", False),
        ("loss-1e-3^2", "loss", "1e-3", True),
        ("f--2", "f", "-2", False),
        ("my-own", "my-own", "", False),
    ],
)
def test_a_name_says_what_is_drawn(metric: str, base: str, less: str, is_squared: bool) -> None:
    """One that says nothing is a metric of the user's own."""
    assert Derived.of(metric) == (base, less, is_squared)


def test_points_are_computed_one_by_one(make_run: Callable[..., StoredRun]) -> None:
    """Only where there was a measurement."""
    run = make_run({}, [{"round": 0, "f": 3.0}, {"round": 1}, {"round": 2, "f": 1.5}])
    assert series(run, "f-f*", {run.name: 1.0}) == {0: 2.0, 2: 0.5}
    assert series(run, "f-1^2") == {0: 4.0, 2: 0.25}
    assert series(run, "f") == {0: 3.0, 2: 1.5}


def test_axes_say_it(make_run: Callable[..., StoredRun]) -> None:
    """In the words of the metric, and with its unit."""
    assert words("f-f*").label == r"$f(x)$ $-\ f^\star$"
    assert words("grad_norm^2").label == r"$\|\nabla f(x)\|^2$"
    assert words("elapsed_s^2").unit == "s²"
    assert words("client_f_q50").label == "$f_i(x)$, median"
    assert words("mine").label == "mine"
