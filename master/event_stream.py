"""The way from whoever emits an event to everyone who wants to know.

Rounds and tasks may come by the thousand a second. What they cost their observers is not paid one by one, each time
between two rounds: they wait for a moment and are handed out together, in order.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Protocol

from master.events import (
    Evaluated,
    Event,
    RoundFinished,
    RoundStarted,
    TaskFinished,
    Warned,
    WorkerJoined,
    WorkerLost,
    WorkerReturned,
)

_FREQUENT = (RoundStarted, TaskFinished, RoundFinished, Evaluated)


class Observer(Protocol):
    """Whatever wants to know. An exception of a method costs it its place and nothing else.

    One that has a method `flush` may hold back what it writes until that is called: it has heard all of the moment.
    """

    def observe(self, event: Event) -> None:
        """Take note, quickly: the round loop waits."""

    def close(self) -> None:
        """No event will follow."""


class EventStream:
    """Hands each event to each observer, in order. All calls are on the event loop.

    An observer that raises is named once, in a Warned to the others, and dropped. A late subscriber first
    hears which workers are here. An event emitted by an observer comes after the one being handed out.

    Args:
        clock: stamps the warnings it emits itself.
        wait_s: so long an event of a round or a task may wait; any other event, `flush` and `close` end the wait.
    """

    def __init__(self, clock: Callable[[], float], wait_s: float = 0.0) -> None:
        self._clock = clock
        self._wait_s = wait_s
        self._timer: asyncio.TimerHandle | None = None
        self._observers: list[Observer] = []
        self._roster: dict[str, WorkerJoined | WorkerReturned] = {}
        self._waiting: list[Event] = []
        self._emitting = False

    def subscribe(self, observer: Observer) -> None:
        """From now on `observer` hears everything."""
        self.flush()
        self._observers.append(observer)
        self._tell(observer, list(self._roster.values()))
        self._hand_out()

    def unsubscribe(self, observer: Observer) -> None:
        """It hears nothing that is still to come and is closed. One that was dropped is ignored."""
        self.flush()
        if observer in self._observers:
            self._observers.remove(observer)
            self._guarded(observer, observer.close)
            self._hand_out()

    def hears(self, observer: Observer) -> bool:
        """Whether it is subscribed; one that has failed is not."""
        return observer in self._observers

    def emit(self, event: Event) -> None:
        """Hand `event` to all, at once or in a moment. Never raises what an observer raises."""
        if self._wait_s and isinstance(event, _FREQUENT):
            self._waiting.append(event)
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(self._wait_s, self.flush)
            return
        if isinstance(event, WorkerJoined | WorkerReturned):
            self._roster[event.name] = event
        elif isinstance(event, WorkerLost):
            self._roster.pop(event.name, None)
        self._waiting.append(event)
        self.flush()

    def flush(self) -> None:
        """Hand out what waits. After it, every observer has heard all that was emitted."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._hand_out()

    def close(self) -> None:
        """Close every observer, the last subscribed first."""
        for observer in reversed(self._observers.copy()):
            self.unsubscribe(observer)

    def _hand_out(self) -> None:
        if self._emitting:
            return
        self._emitting = True
        try:
            while self._waiting:
                together, self._waiting = self._waiting, []  # what is emitted by an observer comes after it
                for observer in self._observers.copy():
                    self._tell(observer, together)
        finally:
            self._emitting = False

    def _tell(self, observer: Observer, together: Sequence[Event]) -> None:
        def tell() -> None:
            for event in together:
                if observer in self._observers:  # it has not left meanwhile
                    observer.observe(event)
            flush = getattr(observer, "flush", None)
            if flush is not None:
                flush()

        if observer in self._observers and not self._guarded(observer, tell):
            self._observers.remove(observer)
            # what it has open is let go of; a second complaint of the same observer would say nothing new
            with contextlib.suppress(Exception):
                observer.close()

    def _guarded(self, observer: Observer, call: Callable[[], None]) -> bool:
        try:
            call()
        except Exception as error:  # an observer must not change the run, whatever its bug
            name = type(observer).__name__
            text = f"{name} failed and is left out from here on: {type(error).__name__}: {error}"
            self._waiting.append(Warned(time_s=self._clock(), text=text))
            return False
        return True
