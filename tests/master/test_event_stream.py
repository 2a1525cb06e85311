"""The event stream: everyone hears everything in order, and nobody can break it for the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from master.event_stream import EventStream
from master.events import Event, Paused, Resumed, RoundStarted, Warned, WorkerJoined, WorkerLost


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


def round_starts(number: int) -> RoundStarted:
    """An event that comes often."""
    return RoundStarted(time_s=float(number), run="r", round=number, clients=1, tasks=1)


async def test_rounds_are_handed_out_together() -> None:
    """They wait for each other, not for ever, and in order; `flush`, or an event of another kind, ends the wait."""
    listener = Listener()
    stream = EventStream(lambda: 9.0, wait_s=0.001)
    stream.subscribe(listener)
    sent: list[Event] = [round_starts(1), round_starts(2)]
    for event in sent:
        stream.emit(event)
    assert listener.heard == []
    while not listener.heard:
        await asyncio.sleep(0)
    assert listener.heard == sent
    patient = EventStream(lambda: 9.0, wait_s=1e6)
    patient.subscribe(listener)
    listener.heard.clear()
    patient.emit(round_starts(3))
    patient.emit(Paused(time_s=3.5))
    assert listener.heard == [round_starts(3), Paused(time_s=3.5)]
    patient.emit(round_starts(4))
    patient.flush()
    assert listener.heard[2:] == [round_starts(4)]


async def test_what_waits_is_for_those_who_were_there() -> None:
    """Who leaves hears it before; who comes later does not hear it."""
    early, late = Listener(), Listener()
    stream = EventStream(lambda: 9.0, wait_s=1e6)
    stream.subscribe(early)
    stream.emit(round_starts(1))
    stream.subscribe(late)
    stream.emit(round_starts(2))
    stream.unsubscribe(early)
    stream.close()
    assert early.heard == [round_starts(1), round_starts(2)]
    assert late.heard == [round_starts(2)]
    assert (early.closed, late.closed) == (1, 1)


async def test_what_was_heard_together_is_written_together() -> None:
    """A writer flushes once all events of the moment are told; one whose disk is full then is dropped as any other."""
    pages: list[list[Event]] = []

    class Writer(Listener):
        def flush(self) -> None:
            pages.append(self.heard.copy())
            if len(pages) == 2:
                raise OSError("disk full")

    writer, last = Writer(), Listener()
    stream = EventStream(lambda: 9.0, wait_s=1e6)
    stream.subscribe(writer)
    stream.subscribe(last)
    pages.clear()
    sent = [round_starts(number) for number in range(1, 5)]
    for event in sent[:3]:
        stream.emit(event)
    stream.flush()
    assert pages == [sent[:3]]
    stream.emit(sent[3])
    stream.flush()
    text = "Writer failed and is left out from here on: OSError: disk full"
    assert last.heard == [*sent, Warned(time_s=9.0, text=text)]
    assert not stream.hears(writer)
