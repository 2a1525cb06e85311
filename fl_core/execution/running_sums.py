"""The sums of a cohort whose clients run one by one: no vector is kept longer than its own client's turn."""

from __future__ import annotations

from typing import Any

from compressors.compressor import Compressor
from compressors.identity import Identity
from fl_core.client import Message
from fl_core.replies import Asked, FieldSums, is_worth_reducing
from fl_core.state import State, as_tensor


class RunningSums:
    """Takes replies in the clients' order.

    Args:
        asked: of which fields sums are enough.
        rows: clients of the cohort; where their replies are no longer than the sums, these are kept.

    Attributes:
        sums: of the fields whose values `take` has taken away.
    """

    def __init__(self, asked: Asked, compressor: Compressor, rows: int) -> None:
        self.sums: dict[str, FieldSums] = {}
        self._asked = asked
        self._rows = rows
        self._identity = isinstance(compressor, Identity)

    def take(self, reply: State, m: int) -> None:
        """Add the values of a client with m samples to their sums, and let go of them (their fields become None)."""
        for name, weightings in self._asked.items():
            value: Any = getattr(reply, name)
            if isinstance(value, Message) and not self._identity:
                continue
            row = value.value if isinstance(value, Message) else as_tensor(value)
            if not is_worth_reducing(row, self._rows, weightings):
                continue
            if name not in self.sums:
                self.sums[name] = FieldSums.zeros(row, weightings)
            self.sums[name].add_row(row, m)
            setattr(reply, name, None)

    def on_cpu(self) -> dict[str, FieldSums]:
        """The sums, in the host's memory; until it is asked for, they stay where the replies are."""
        return {name: found.on_cpu() for name, found in self.sums.items()}
