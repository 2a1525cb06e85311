"""protocol.budget: memory that links share, and what they do when there is none."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from protocol import messages as m
from protocol.budget import ReceiveBudget, Share
from protocol.buffers import pack
from protocol.fields import TensorSpec


def test_first_come_first_served() -> None:
    """Who finds no room waits, in order, and behind whoever waits already."""
    budget, granted = ReceiveBudget(100), list[str]()
    assert budget.take(80, lambda: granted.append("a"))
    assert not budget.take(50, lambda: granted.append("b"))
    assert not budget.take(5, lambda: granted.append("c"))  # there is room, but b was first
    budget.give_back(80)
    assert granted == ["b", "c"]
    assert budget.taken_bytes == 55


def test_one_body_is_let_in_however_large() -> None:
    """Else nothing would ever move; while it is there nobody else is."""
    budget, granted = ReceiveBudget(10), list[str]()
    assert budget.take(1000, lambda: granted.append("a"))
    assert not budget.take(1, lambda: granted.append("b"))
    budget.at_least(1001)
    assert granted == ["b"]


def test_a_link_that_ends_gives_back_and_waits_no_longer() -> None:
    """What was taken is free, what was asked for is forgotten, and the next one gets it; whole bodies remain taken."""
    budget, granted = ReceiveBudget(100), list[str]()
    first, second, third = (Share(budget, lambda name=name: granted.append(name)) for name in "abc")  # type: ignore[misc]
    assert first.admit(60)
    assert not second.admit(60)
    assert not third.admit(30)
    second.close(kept_bytes=0)
    assert granted == ["c"]
    assert third._taken_bytes == 30
    first.close(kept_bytes=20)
    assert budget.taken_bytes == 50
    first.give_back(20)
    third.close(kept_bytes=0)
    assert budget.taken_bytes == 0


def test_shares_add_up_whatever_happens() -> None:
    """Ten thousand random asks, returns and ends: taken is what the shares hold, within the limit or one body."""
    rng, budget = random.Random(3), ReceiveBudget(1000)
    shares: dict[int, Share] = {}
    held: dict[int, list[int]] = {}
    for step in range(10_000):
        number = rng.randrange(8)
        if number not in shares:
            shares[number], held[number] = Share(budget, lambda: None), []
        share = shares[number]
        if not share._asked_bytes and rng.random() < 0.5:
            size = rng.choice((1, 100, 400, 1500))
            if share.admit(size):
                held[number].append(size)
        elif share._taken_bytes and rng.random() < 0.7:
            share.give_back(share._taken_bytes)
            held[number].clear()
        elif rng.random() < 0.2:
            share.close(kept_bytes=0)
            del shares[number], held[number]
        assert budget.taken_bytes == sum(each._taken_bytes for each in shares.values()), step
        alone = sum(bool(each._taken_bytes) for each in shares.values()) <= 1
        assert budget.taken_bytes <= 1000 or alone


def test_a_held_connection_goes_on_where_it_was(wire: Any) -> None:
    """Refused its body, a connection gives out nothing more; resumed, everything comes in order and whole."""
    master, worker = wire.opened()
    arrays = [np.full(1000, k, np.uint8) for k in range(3)]
    shards = [m.Shard("run", k, [TensorSpec("x", "uint8", [1000])]) for k in range(3)]
    data = b"".join(wire.bytes_of(master, shard, [array]) for shard, array in zip(shards, arrays, strict=True))
    asked: list[int] = []

    def refuse(nbytes: int) -> bool:
        asked.append(nbytes)
        return False

    worker.admit = refuse
    target = worker.receive_buffer()
    target[: len(data)] = data
    received = worker.received(len(data))
    assert (received, asked, worker.is_held) == ([], [pack([arrays[0]]).nbytes], True)
    for k in range(3):
        received += worker.resumed()
        assert len(received) == k + 1
    assert not worker.is_held
    assert [wire.split(one) for one in received] == [
        (shard, [bytes(array)]) for shard, array in zip(shards, arrays, strict=True)
    ]
