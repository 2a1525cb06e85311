"""When a run ends before its last round: a threshold of `stop` is reached, or a metric is NaN (always)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def is_reached(stop: Mapping[Any, float], found: Mapping[str, float]) -> bool:
    """Whether one of the thresholds is met: accuracies from below, all other metrics from above."""
    return any(
        found[name] >= threshold if name.startswith("accuracy") else found[name] <= threshold
        for name, threshold in stop.items()
        if name in found
    )


def divergence(round_number: int, metrics: Mapping[str, float]) -> str:
    """Why the run cannot go on, for its summary; empty if no metric is NaN."""
    lost = next((name for name, value in metrics.items() if math.isnan(value)), None)
    if lost is None:
        return ""
    if round_number == 0:
        return (
            f"round 0: {lost} is NaN at the starting point, before any step: the data or the model is at fault; "
            "look for NaN or inf in the inputs, and at what the model makes of them"
        )
    return f"round {round_number}: {lost} is NaN: the method diverges; try a smaller step size"


__all__ = ["divergence", "is_reached"]
