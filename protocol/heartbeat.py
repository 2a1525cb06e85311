"""When to call a silent peer lost: a decision over clock readings, with no timer in it.

Only silence while this side was listening counts. A beat of our own that comes late says that this process
was held up (by the system, or by something that kept the interpreter's lock): what it could not read is no
fault of the peer's, so the time it was late is forgiven.
"""

from __future__ import annotations


class Heartbeat:
    """The time of the last sign of life; all times are in seconds on one monotonic clock."""

    def __init__(self, interval_s: float, dead_after_s: float, now_s: float) -> None:
        self.interval_s = interval_s
        self.dead_after_s = dead_after_s
        self._last_heard_s = now_s
        self._silent_since_s = now_s
        self._last_beat_s = now_s

    def heard(self, now_s: float) -> None:
        """Bytes came in."""
        self._last_heard_s = self._silent_since_s = now_s

    def not_listening(self, now_s: float) -> None:
        """This side does not read (its owner is behind), so the peer cannot be heard."""
        self._silent_since_s = now_s

    def silence_s(self, now_s: float) -> float:
        """Time since the last byte."""
        return now_s - self._last_heard_s

    def is_dead(self, now_s: float) -> bool:
        """To be asked once an interval: whether the peer has been silent too long while we listened."""
        late_s = now_s - self._last_beat_s - self.interval_s
        self._last_beat_s = now_s
        if late_s > self.interval_s:
            self._silent_since_s = min(now_s, self._silent_since_s + late_s)
        return now_s - self._silent_since_s >= self.dead_after_s


class Progress:
    """Whether a message that the peer has begun comes on, however slowly: a drop at a time is no progress.

    Only time in which this side was reading counts.
    """

    def __init__(self, slowest_bytes_per_s: float, over_s: float, now_s: float) -> None:
        self._least_bytes = slowest_bytes_per_s * over_s
        self._over_s = over_s
        self._since_s = now_s
        self._bytes = 0

    def is_stuck(self, now_s: float, received_bytes: int, is_due: bool) -> bool:
        """To be asked once in a while: ``is_due`` if we read and the peer owes the rest of a message.

        ``received_bytes`` counts all that has come from the peer.
        """
        came = received_bytes - self._bytes
        if is_due and came < self._least_bytes:
            return now_s - self._since_s >= self._over_s
        self._since_s, self._bytes = now_s, received_bytes
        return False
