"""How many slots of a GPU compute at a time: as many as its memory holds, by what tasks were seen to take there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

_MARGIN = 2
"""Times what a slot takes that must be free for one more: tasks differ, and free pieces between blocks fit nothing."""


class Seen(NamedTuple):
    """A GPU's memory in bytes: free for anyone; held by torch, pieces that wait to be used again included; used now."""

    free: int
    held: int
    used: int


class Room:
    """One GPU's. It starts with one slot, and every further one is measured before the next. For one thread at a time.

    Args:
        most: slots there are.
        look: the memory now.

    Attributes:
        slots: that may compute at a time.
    """

    def __init__(self, most: int, look: Callable[[], Seen]) -> None:
        self.look = look
        self.slots = 1
        self._slots_there_are = self._most = most
        self._kept: int | None = None

    @property
    def may_grow(self) -> bool:
        """Whether there is anything to measure for."""
        return self.slots < self._most

    def ended(self, busy: int, seen: Seen) -> None:
        """A task has ended, where `busy` slots computed: perhaps there is room for one more.

        What lies there between tasks (the data, the first replica) is what one that was alone has left.
        """
        if self._kept is None and busy == 1:
            self._kept = seen.used
        if self._kept is None or busy < self.slots or not self.may_grow:
            return  # what all of them take at once was not seen
        if seen.free > _MARGIN * max(0, seen.held - self._kept) / self.slots:
            self.slots += 1

    def lacked(self, busy: int) -> None:
        """A task found no memory, where `busy` slots compute, it included: from now on fewer do."""
        self.slots = self._most = max(1, min(self.slots, busy - 1))

    def forget(self) -> None:
        """A run is over: what the next one takes is seen anew."""
        self.slots, self._most, self._kept = 1, self._slots_there_are, None


def room_of(device: torch.device, slots: int) -> Room:
    """A GPU's, with so many slots."""

    def look() -> Seen:
        free, _ = torch.cuda.mem_get_info(device)
        return Seen(free, torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device))

    return Room(slots, look)


def lacks_memory(found: Any) -> bool:
    """Whether this is, or comes from, an error of a GPU that has no memory left."""
    while isinstance(found, BaseException):
        if isinstance(found, torch.OutOfMemoryError):
            return True
        found = found.__cause__ or found.__context__
    return False


__all__ = ["Room", "Seen", "lacks_memory", "room_of"]
