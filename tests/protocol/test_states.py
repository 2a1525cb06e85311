"""protocol.states: every (state, sender, message) is legal exactly where the protocol says so."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from protocol import messages as m
from protocol.errors import StateError
from protocol.states import Role, State, next_state

EVERY: list[type[m.Message]] = [*m.HANDSHAKE, *m.WORKING]
# Written out again on purpose: this is the specification, the module's table is what is tested.
LEGAL = {
    ("start", "master"): "Hello",
    ("greeted", "worker"): "Challenge",
    ("challenged", "master"): "Proof",
    ("proven", "worker"): "Welcome",
    ("open", "master"): "Ping Pong Bye Setup Shard Broadcast Task Cancel Forget",
    ("open", "worker"): "Ping Pong Bye Ready Result Failure Drain",
    ("worker left", "master"): "Ping Pong Bye Setup Shard Broadcast Task Cancel Forget",
    ("master left", "worker"): "Ping Pong Bye Ready Result Failure Drain",
}
AFTER = {
    ("start", "Hello"): "greeted",
    ("greeted", "Challenge"): "challenged",
    ("challenged", "Proof"): "proven",
    ("proven", "Welcome"): "open",
    ("worker left", "Bye"): "ended",
    ("master left", "Bye"): "ended",
}


@pytest.mark.parametrize(("state", "role", "kind"), list(itertools.product(State, Role, EVERY)))
def test_legality(wire: Any, state: State, role: Role, kind: type[m.Message]) -> None:
    """The next state of each combination, or StateError."""
    known = [*wire.handshake, *(pair[0] for pair in wire.from_master + wire.from_worker + wire.from_either)]
    message = next(message for message in known if type(message) is kind)
    if kind.__name__ not in LEGAL.get((state.value, role.value), "").split():
        with pytest.raises(StateError, match=kind.__name__):
            next_state(state, role, message)
        return
    after = AFTER.get((state.value, kind.__name__), state.value)
    if (state, kind) == (State.OPEN, m.Bye):
        after = f"{role.value} left"
    assert next_state(state, role, message) is State(after)
