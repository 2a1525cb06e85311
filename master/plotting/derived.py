"""What a figure may show of a metric: itself, less a number (`f-0.25`), f less f* (`f-f*`), its square (`grad_norm^2`).

Each is computed point by point from what was measured.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from master.flctl.stored_run import StoredRun

_DERIVED = re.compile(r"^(?P<base>\w+?)(?:-(?P<less>f\*|-?\d+(?:\.\d*)?(?:e[+-]?\d+)?))?(?P<square>\^2)?$")


class Derived(NamedTuple):
    """A metric as it is drawn: (base - less)², or without one of the two."""

    base: str
    less: str = ""
    is_squared: bool = False

    @classmethod
    def of(cls, metric: str) -> Derived:
        """What the name says; one that says nothing is a metric's own name."""
        match = _DERIVED.match(metric)
        if match is None:
            return cls(metric)
        return cls(match["base"], match["less"] or "", match["square"] is not None)

    @property
    def is_gap(self) -> bool:
        """Whether it needs f* of the run's problem."""
        return self.less == "f*"


def series(run: StoredRun, metric: str, least: Mapping[str, float] = {}) -> dict[int, float]:
    """The derived metric by round. `least`: run name -> f* of its problem, where the metric needs it."""
    base, less, is_squared = Derived.of(metric)
    taken = 0.0 if not less else least[run.name] if less == "f*" else float(less)
    found = {number: value - taken for number, value in run.series(base).items()} if less else run.series(base)
    return {number: value**2 for number, value in found.items()} if is_squared else found


__all__ = ["Derived", "series"]
