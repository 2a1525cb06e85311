"""Who may say what, when: the one table of legal (state, role, message).

Both sides keep the same state, moved by each message in either direction::

    START --Hello--> GREETED --Challenge--> CHALLENGED --Proof--> PROVEN --Welcome--> OPEN

and from OPEN a Bye of the master or of the worker closes that direction only: what the other side has sent
meanwhile is still legal. A message that is not in the table raises StateError.
"""

from __future__ import annotations

from enum import Enum

from protocol.errors import StateError
from protocol.messages import (
    Broadcast,
    Bye,
    Cancel,
    Challenge,
    Drain,
    Failure,
    Forget,
    Hello,
    Message,
    Ping,
    Pong,
    Proof,
    Ready,
    Result,
    Setup,
    Shard,
    Task,
    Welcome,
)


class Role(Enum):
    """Which end of a connection: the master dials, the worker listens."""

    MASTER = "master"
    WORKER = "worker"

    @property
    def other(self) -> Role:
        """The role at the other end."""
        return Role.WORKER if self is Role.MASTER else Role.MASTER


class State(Enum):
    """How far a connection has come."""

    START = "start"
    GREETED = "greeted"
    CHALLENGED = "challenged"
    PROVEN = "proven"
    OPEN = "open"
    MASTER_LEFT = "master left"
    WORKER_LEFT = "worker left"
    ENDED = "ended"
    FAILED = "failed"


_EITHER: tuple[type[Message], ...] = (Ping, Pong)
_FROM_MASTER: tuple[type[Message], ...] = (*_EITHER, Setup, Shard, Broadcast, Task, Cancel, Forget)
_FROM_WORKER: tuple[type[Message], ...] = (*_EITHER, Ready, Result, Failure, Drain)

TRANSITIONS: dict[tuple[State, Role], dict[type[Message], State]] = {
    (State.START, Role.MASTER): {Hello: State.GREETED},
    (State.GREETED, Role.WORKER): {Challenge: State.CHALLENGED},
    (State.CHALLENGED, Role.MASTER): {Proof: State.PROVEN},
    (State.PROVEN, Role.WORKER): {Welcome: State.OPEN},
    (State.OPEN, Role.MASTER): dict.fromkeys(_FROM_MASTER, State.OPEN) | {Bye: State.MASTER_LEFT},
    (State.OPEN, Role.WORKER): dict.fromkeys(_FROM_WORKER, State.OPEN) | {Bye: State.WORKER_LEFT},
    (State.WORKER_LEFT, Role.MASTER): dict.fromkeys(_FROM_MASTER, State.WORKER_LEFT) | {Bye: State.ENDED},
    (State.MASTER_LEFT, Role.WORKER): dict.fromkeys(_FROM_WORKER, State.MASTER_LEFT) | {Bye: State.ENDED},
}
"""The state after each legal message of each role; what is not here is not legal."""

HANDSHAKE_STATES = frozenset({State.START, State.GREETED, State.CHALLENGED, State.PROVEN})


def next_state(state: State, sender: Role, message: Message) -> State:
    """The state after ``sender`` said ``message``. Raises StateError when it may not."""
    following = TRANSITIONS.get((state, sender), {}).get(type(message))
    if following is None:
        raise StateError(f"a {sender.value} may not send {type(message).__name__} in state {state.value!r}")
    return following
