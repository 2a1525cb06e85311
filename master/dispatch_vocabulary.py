"""What the dispatcher is told (events) and what it answers (commands). The rules are in `master.dispatcher`.

Structs rather than dataclasses: frozen, equal only to their own type, and ten times cheaper to make.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class TaskId(NamedTuple):
    """One cohort of clients in one round of one run."""

    run: str
    round: int
    cohort: int


class ExecutorJoined(msgspec.Struct, frozen=True, gc=False):
    """A new incarnation is ready: it runs `slots` tasks at a time, holds `credit` (>= slots) of them."""

    executor: str
    slots: int
    credit: int


class ExecutorLost(msgspec.Struct, frozen=True, gc=False):
    """The incarnation is gone with all it held. Said twice, the second is ignored."""

    executor: str


class ExecutorDraining(msgspec.Struct, frozen=True, gc=False):
    """It takes no new task; what it holds it finishes or hands back."""

    executor: str


class CreditChanged(msgspec.Struct, frozen=True, gc=False):
    """It may hold so many tasks from now on."""

    executor: str
    credit: int


class RoundOpened(msgspec.Struct, frozen=True):
    """The tasks of one round, in the order to hand them out."""

    run: str
    round: int
    tasks: tuple[TaskId, ...]


class RoundAborted(msgspec.Struct, frozen=True, gc=False):
    """The round is given up (stop, failure). A round that is not open is ignored."""

    run: str
    round: int


class ResultReceived(msgspec.Struct, frozen=True, gc=False):
    """An executor sent a whole, verified result."""

    executor: str
    task: TaskId
    attempt: int


class TaskFailed(msgspec.Struct, frozen=True, gc=False):
    """The user's code raised; deterministic, so never retried. `report` names file, line and client."""

    executor: str
    task: TaskId
    attempt: int
    report: str


class TaskReturned(msgspec.Struct, frozen=True, gc=False):
    """An executor let go of a task before its end: cancelled, or handed back while draining."""

    executor: str
    task: TaskId
    attempt: int


class TaskSkipped(msgspec.Struct, frozen=True, gc=False):
    """The round goes on without a failed or poisoned task (`on_error = "skip"`)."""

    task: TaskId


class DispatchPaused(msgspec.Struct, frozen=True, gc=False):
    """Nothing new is handed out until DispatchResumed; what runs goes on."""


class DispatchResumed(msgspec.Struct, frozen=True, gc=False):
    """Hand out again."""


class Tick(msgspec.Struct, frozen=True, gc=False):
    """The time, on any clock that only goes forward. Once a second is enough."""

    now_s: float


Event = (
    ExecutorJoined
    | ExecutorLost
    | ExecutorDraining
    | CreditChanged
    | RoundOpened
    | RoundAborted
    | ResultReceived
    | TaskFailed
    | TaskReturned
    | TaskSkipped
    | DispatchPaused
    | DispatchResumed
    | Tick
)


class Assign(msgspec.Struct, frozen=True, gc=False):
    """Give the task to the executor. `attempt` starts at 1 and grows with every hand-out of this task."""

    executor: str
    task: TaskId
    attempt: int


class Cancel(msgspec.Struct, frozen=True, gc=False):
    """Its result is no longer wanted. The executor may stop early; it answers in any case."""

    executor: str
    task: TaskId
    attempt: int


class Accept(msgspec.Struct, frozen=True, gc=False):
    """This result counts. Said exactly once a task."""

    executor: str
    task: TaskId
    attempt: int


class Discard(msgspec.Struct, frozen=True, gc=False):
    """This result or failure does not count: late, duplicate, or of a round that is over."""

    executor: str
    task: TaskId
    attempt: int


class RoundComplete(msgspec.Struct, frozen=True, gc=False):
    """Every task of the round is done or skipped. The counts are of this round, while it was open."""

    run: str
    round: int
    accepted: int
    skipped: int
    discarded: int
    retried: int  # hand-outs after a loss or a return
    copied: int  # hand-outs of stragglers' copies


class Fail(msgspec.Struct, frozen=True, gc=False):
    """The user's code is wrong. The round waits for RoundAborted or TaskSkipped."""

    executor: str
    task: TaskId
    report: str


class Poisoned(msgspec.Struct, frozen=True, gc=False):
    """These executors were lost while running it. The round waits for RoundAborted or TaskSkipped."""

    task: TaskId
    executors: tuple[str, ...]


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """`tasks` are queued and no executor lives that may take one. Said once until one joins."""

    tasks: int


Command = Assign | Cancel | Accept | Discard | RoundComplete | Fail | Poisoned | Waiting
