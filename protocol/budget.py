"""Memory for what is coming in, shared by all links of a process: who may take how much, and who waits.

A body is announced before it comes. A link takes its bytes out of the budget before memory is taken, and gives
them back when its owner has the message; meanwhile a link that finds no room stops reading, and its peer is
slowed down by its own socket. One body is always let in, however large, so that nothing stands still.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

Grant = Callable[[], None]


class ReceiveBudget:
    """At most ``limit_bytes`` of bodies at once, or one; first come, first served."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.taken_bytes = 0
        self._waiting: deque[tuple[int, Grant]] = deque()

    def take(self, nbytes: int, grant: Grant) -> bool:
        """Whether ``nbytes`` are taken now; if not, ``grant`` is called once they are."""
        if self._waiting or not self._has_room(nbytes):
            self._waiting.append((nbytes, grant))
            return False
        self.taken_bytes += nbytes
        return True

    def give_back(self, nbytes: int) -> None:
        """``nbytes`` are free again; those who waited longest take them."""
        self.taken_bytes -= nbytes
        while self._waiting and self._has_room(self._waiting[0][0]):
            granted, grant = self._waiting.popleft()
            self.taken_bytes += granted
            grant()

    def forget(self, grant: Grant) -> None:
        """Whoever gave ``grant`` waits no longer."""
        self._waiting = deque(entry for entry in self._waiting if entry[1] != grant)
        self.give_back(0)

    def at_least(self, limit_bytes: int) -> None:
        """Raise the limit to ``limit_bytes`` if it is lower."""
        self.limit_bytes = max(self.limit_bytes, limit_bytes)
        self.give_back(0)

    def _has_room(self, nbytes: int) -> bool:
        return not self.taken_bytes or self.taken_bytes + nbytes <= self.limit_bytes


def _nothing() -> None:
    pass


class Share:
    """What one link has of a budget; without a budget it may have all it wants.

    ``resume`` is called when there is room for the body that :meth:`admit` has put off.
    """

    def __init__(self, budget: ReceiveBudget | None, resume: Grant) -> None:
        self._budget = budget
        self._resume = resume
        self._asked_bytes = 0
        self._taken_bytes = 0

    def admit(self, nbytes: int) -> bool:
        """Whether a body of ``nbytes`` may come now."""
        if self._budget is None:
            return True
        if not self._budget.take(nbytes, self._granted):
            self._asked_bytes = nbytes
            return False
        self._taken_bytes += nbytes
        return True

    def give_back(self, nbytes: int) -> None:
        """A body of ``nbytes`` is somebody else's now, or nobody's."""
        if self._budget is not None and nbytes:
            self._taken_bytes -= nbytes
            self._budget.give_back(nbytes)

    def close(self, kept_bytes: int) -> None:
        """Nothing more will come; only ``kept_bytes`` of whole bodies are still to be given back one by one."""
        if self._budget is not None:
            self._budget.forget(self._granted)
            self.give_back(self._taken_bytes - kept_bytes)
        self._resume = _nothing  # its owner holds this share: a circle that only the garbage collector would undo

    def _granted(self) -> None:
        self._taken_bytes += self._asked_bytes
        self._asked_bytes = 0
        self._resume()
