"""The door: how many strangers may stand in it, and how much of what they do goes into the log."""

from __future__ import annotations

import ipaddress
from collections import Counter


class Gate:
    """Counts connections that have not proved themselves: ``total`` at most, and ``each`` of one address.

    So one machine cannot fill the door, and strangers cost no more than ``total`` times what one does.
    """

    def __init__(self, total: int, each: int) -> None:
        self._total = total
        self._each = each
        self._waiting: Counter[str] = Counter()

    @property
    def waiting(self) -> int:
        """Connections that have been let in and have not left."""
        return self._waiting.total()

    def refusal(self, address: str) -> str | None:
        """Why one more from ``address`` is refused; None: it is counted in, until :meth:`leave`."""
        who = _who(address)
        if self.waiting >= self._total:
            return "too many connections wait for their handshake"
        if self._waiting[who] >= self._each:
            return f"too many connections from {address} wait for their handshake"
        self._waiting[who] += 1
        return None

    def leave(self, address: str) -> None:
        """One from ``address`` has proved itself, or is gone."""
        who = _who(address)
        self._waiting[who] -= 1
        if not self._waiting[who]:
            del self._waiting[who]


def _who(address: str) -> str:
    """Of IPv6 the first 64 bits, since whoever has one address has all with the same."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        return str(found.ipv4_mapped) if found.ipv4_mapped else str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)


class Complaints:
    """At most ``limit`` lines in ``window_s`` seconds, so that strangers cannot fill a disk through the log."""

    def __init__(self, limit: int = 20, window_s: float = 60.0) -> None:
        self._limit = limit
        self._window_s = window_s
        self._since_s = float("-inf")
        self._said = 0
        self._unsaid = 0

    def line(self, text: str, now_s: float) -> str | None:
        """What to log of ``text`` now: itself, with a count of those that were left out before; None: nothing."""
        if now_s - self._since_s >= self._window_s:
            self._since_s, self._said = now_s, 0
        if self._said >= self._limit:
            self._unsaid += 1
            return None
        self._said += 1
        unsaid, self._unsaid = self._unsaid, 0
        return f"{text} (and {unsaid} more that were not logged)" if unsaid else text
