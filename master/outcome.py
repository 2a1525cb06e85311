"""How a run ended, and what its log says of an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from fl_core.errors import FlspanError, UserCodeError


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `x` is the model after the last round."""

    reason: Literal["finished", "stopped", "failed"]
    rounds: int
    x: torch.Tensor
    metrics: dict[str, float]
    text: str = ""


def told(error: FlspanError) -> str:
    """The error, and where the user's code raised it the traceback."""
    if isinstance(error, UserCodeError) and error.traceback_text:
        return f"{error}\n{error.traceback_text.rstrip()}"
    return str(error)
