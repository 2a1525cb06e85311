"""A tensor that a worker has been sent in the last two rounds does not travel again, and none is missing."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from fl_core.execution import wire
from fl_core.execution.broadcasts import ReceivedBroadcasts, SentBroadcasts
from fl_core.server import Broadcast
from protocol.errors import MessageError

Sent = Callable[[Any], Any]


def vector(number: int) -> torch.Tensor:
    """The same numbers in new memory each time."""
    return torch.full((5,), float(number))


def sending(master: SentBroadcasts, broadcast: Broadcast) -> wire.Packed:
    """The broadcast as the master sends it."""
    packed = wire.broadcast_message("r", broadcast)
    lacking = master.lacking(packed)
    master.sent(packed)
    return lacking


def test_the_model_of_the_round_before_is_not_sent_again(sent: Sent) -> None:
    """x travels once: as x_prev it is named only, and the worker has the same broadcast."""
    master, worker, bytes_sent = SentBroadcasts(), ReceivedBroadcasts(), []
    for number in range(1, 5):
        whole = Broadcast(number, vector(number), {"x_prev": vector(number - 1), "coin": True})
        message, buffers = sent(sending(master, whole))
        bytes_sent.append(sum(buffer.nbytes for buffer in buffers))
        found = worker.unpack(message, buffers)
        assert (found.round, found.shared["coin"]) == (number, True)
        assert torch.equal(found.x, whole.x)
        assert torch.equal(torch.as_tensor(found.shared["x_prev"]), vector(number - 1))
    assert bytes_sent == [40, 20, 20, 20]


def test_both_ends_forget_alike(sent: Sent) -> None:
    """Whatever comes back after whatever number of rounds, of one value in several fields too: nothing is missing."""
    master, worker, source = SentBroadcasts(), ReceivedBroadcasts(), random.Random(3)
    saved = 0
    for number in range(200):
        fields = {name: vector(source.randrange(5)) for name in source.sample("abc", source.randrange(4))}
        whole = Broadcast(number, vector(source.randrange(5)), dict(fields))
        message, buffers = sent(sending(master, whole))
        saved += len(message.held)
        found = worker.unpack(message, buffers)
        assert torch.equal(found.x, whole.x)
        assert found.shared.keys() == fields.keys()
        assert all(torch.equal(torch.as_tensor(found.shared[name]), fields[name]) for name in fields)
    assert saved > 100


def test_what_was_not_sent_does_not_count() -> None:
    """A broadcast that did not go out after all is asked for anew, whole."""
    master, packed = SentBroadcasts(), wire.broadcast_message("r", Broadcast(1, vector(1), {}))
    assert master.lacking(packed) == master.lacking(packed) == packed
    master.sent(packed)
    assert master.lacking(packed)[1] == []


def test_types_and_shapes_are_told_apart(sent: Sent) -> None:
    """Equal bytes of another type or shape are another tensor."""
    master, worker = SentBroadcasts(), ReceivedBroadcasts()
    for x in (torch.zeros(4), torch.zeros(2, 2), torch.zeros(2, dtype=torch.float64), torch.zeros(4).int()):
        found = worker.unpack(*sent(sending(master, Broadcast(1, x, {}))))
        assert (found.x.dtype, found.x.shape) == (x.dtype, x.shape)


@pytest.mark.parametrize(
    "change",
    [{"held": {"shared/a": "0" * 64}}, {"digests": []}, {"held": {"x": "the digest of x"}}],
    ids=["not here", "no digests", "here and sent"],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    """A master cannot make a worker compute with what it does not have."""
    worker = ReceivedBroadcasts()
    message, buffers = wire.broadcast_message("r", Broadcast(1, vector(1), {}))
    worker.unpack(message, buffers)
    if change.get("held", {}).get("x"):
        change = {"held": {"x": message.digests[0]}}
    with pytest.raises(MessageError):
        worker.unpack(msgspec.structs.replace(message, **change), [np.copy(buffer) for buffer in buffers])
