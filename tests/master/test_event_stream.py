"""The event stream: everyone hears everything in order, and nobody can break it for the others."""

from __future__ import annotations

from collections.abc import Callable

from master.event_stream import EventStream
from master.events import Event, Paused, Resumed, Warned, WorkerJoined, WorkerLost


class Listener:
    """Keeps what it hears; `then` may misbehave."""

    def __init__(self, then: Callable[[Event], None] | None = None) -> None:
        self.heard: list[Event] = []
        self.closed = 0
        self._then = then

    def observe(self, event: Event) -> None:
        self.heard.append(event)
        if self._then is not None:
            self._then(event)

    def close(self) -> None:
        self.closed += 1


class Broken(Listener):
    """Raises at whatever it hears, and when it is closed."""

    def observe(self, event: Event) -> None:
        super().observe(event)
        raise OSError("disk full")

    def close(self) -> None:
        super().close()
        raise RuntimeError("and again")


def stream_with(*observers: Listener) -> EventStream:
    """A stream whose own warnings are stamped 9 s."""
    stream = EventStream(lambda: 9.0)
    for observer in observers:
        stream.subscribe(observer)
    return stream


def test_an_observer_that_raises_is_reported_once_and_dropped() -> None:
    """The others hear the event, then one warning; the run goes on and the broken one hears nothing more."""
    before, broken, after = Listener(), Broken(), Listener()
    stream = stream_with(before, broken, after)
    stream.emit(Paused(time_s=1.0))
    stream.emit(Resumed(time_s=2.0))
    text = "Broken failed and is left out from here on: OSError: disk full"
    expected = [Paused(time_s=1.0), Warned(time_s=9.0, text=text), Resumed(time_s=2.0)]
    assert before.heard == after.heard == expected
    assert broken.heard == [Paused(time_s=1.0)]
    assert broken.closed == 1


def test_all_observers_may_break_at_the_same_event() -> None:
    """A stream without observers is still a stream."""
    first, second = Broken(), Broken()
    stream = stream_with(first, second)
    stream.emit(Paused(time_s=1.0))
    stream.emit(Paused(time_s=2.0))
    assert first.heard == second.heard == [Paused(time_s=1.0)]


def test_an_event_emitted_by_an_observer_comes_after_the_present_one() -> None:
    """Everyone sees the same order, whoever emits."""
    last = Listener()

    def answer(event: Event) -> None:
        if isinstance(event, Paused):
            stream.emit(Resumed(time_s=2.0))

    stream = stream_with(Listener(answer), last)
    stream.emit(Paused(time_s=1.0))
    assert last.heard == [Paused(time_s=1.0), Resumed(time_s=2.0)]


def test_a_late_subscriber_hears_who_is_here() -> None:
    """The second run of a sweep has an event file that knows the workers; lost ones are not in it."""
    stream = stream_with()
    joined = [WorkerJoined(time_s=0.0, name=n, address=n, slots=1, devices=("cpu",)) for n in "ab"]
    for event in joined:
        stream.emit(event)
    stream.emit(WorkerLost(time_s=1.0, name="a", reason="reset"))
    late = Listener()
    stream.subscribe(late)
    assert late.heard == [joined[1]]


def test_close_closes_each_once_and_reports_a_failure_to_the_rest() -> None:
    """A tracker that cannot close is a warning, not an end."""
    first, broken = Listener(), Broken()
    stream = stream_with(first, broken)
    stream.close()
    stream.close()
    assert first.closed == broken.closed == 1
    assert [event.text for event in first.heard if isinstance(event, Warned)] == [
        "Broken failed and is left out from here on: RuntimeError: and again"
    ]
