"""How many slots a GPU's memory has room for."""

from __future__ import annotations

import pytest
import torch

from fl_core.execution.gpu_memory import Room, Seen, lacks_memory

GB = 1 << 30


def room(most: int = 4) -> Room:
    """One whose memory is told by the test."""
    return Room(most, lambda: Seen(0, 0, 0))


def test_it_opens_one_slot_after_the_other() -> None:
    """Each further slot is opened by a task that ended while all the slots before it computed; there are four."""
    found = room()
    seen = Seen(free=100 * GB, held=12 * GB, used=10 * GB)
    slots = []
    for busy in (1, 1, 2, 2, 3, 4, 4):
        found.ended(busy, seen)
        slots.append(found.slots)
    assert slots == [2, 2, 3, 3, 4, 4, 4]
    assert not found.may_grow


def test_the_data_does_not_count_for_a_further_slot() -> None:
    """10 GB of data and 1 GB of a task: twice that one must be free, not twice eleven."""
    found = room()
    found.ended(1, Seen(free=3 * GB, held=11 * GB, used=10 * GB))
    assert found.slots == 2
    found.ended(2, Seen(free=1 * GB, held=13 * GB, used=10 * GB))
    assert (found.slots, found.may_grow) == (2, True)


def test_nothing_opens_before_a_task_was_alone() -> None:
    """After a run beside others that go on: what the first one leaves is not known yet."""
    found = room()
    plenty = Seen(free=100 * GB, held=2 * GB, used=1 * GB)
    found.ended(2, plenty)
    assert found.slots == 1
    found.ended(1, plenty)
    assert found.slots == 2


def test_what_was_not_free_is_not_opened() -> None:
    """As much as a slot takes is not enough: tasks differ."""
    found = room()
    found.ended(1, Seen(free=10 * GB, held=8 * GB, used=1 * GB))
    assert found.slots == 1


def test_a_task_without_memory_closes_slots() -> None:
    """As many stay as found memory, and no further one is opened in this run."""
    found = room()
    plenty = Seen(free=100 * GB, held=2 * GB, used=1 * GB)
    for busy in (1, 2, 3):
        found.ended(busy, plenty)
    found.lacked(busy=4)
    assert (found.slots, found.may_grow) == (3, False)
    found.lacked(busy=3)
    assert found.slots == 2
    found.lacked(busy=1)
    assert found.slots == 1
    found.forget()
    assert (found.slots, found.may_grow) == (1, True)


@pytest.mark.parametrize("slots", [1, 2])
def test_no_more_than_there_are(slots: int) -> None:
    """One slot needs no measuring."""
    found = room(slots)
    assert found.may_grow is (slots > 1)
    for busy in (1, 2, 3):
        found.ended(busy, Seen(free=100 * GB, held=2 * GB, used=1 * GB))
    assert found.slots == slots


def test_an_error_of_the_memory_is_known_by_its_cause() -> None:
    """Also where it was wrapped on its way; nothing else is one."""
    wrapped = RuntimeError("client 3")
    wrapped.__cause__ = torch.OutOfMemoryError("no memory is left")
    assert lacks_memory(wrapped)
    assert lacks_memory(wrapped.__cause__)
    assert not lacks_memory(ValueError("3"))
    assert not lacks_memory("a result")
