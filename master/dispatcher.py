"""Who runs which task: round-robin with credit, each result counted once, whatever happens to executors.

The dispatcher decides and does nothing else: `handle(event)` returns the commands that the round loop
carries out. It has no clock, no socket and no thread; only `Tick` tells it the time.

An *executor* is one incarnation of a local device pool or of a worker: one that returns after a loss joins
under a new id, so whatever the old one still sends is late by construction. It runs the oldest `slots` of
the tasks it holds, and may hold `credit` of them (slots + 1 prefetch hides the round trip to a remote one,
more where tasks are shorter than that; slots for a local pool). A *task* is one cohort of clients in one
round of one run. Every hand-out of a task has a higher attempt number.

    task      event                                          becomes          commands
    ──────────────────────────────────────────────────────────────────────────────────────────────────────
    -         RoundOpened                                    pending          RoundComplete if without tasks
    pending   (an executor has credit, not paused)           running          Assign, next attempt
    running   ResultReceived from a live copy                done             Accept, Cancel the other copy
    running   TaskFailed by a live copy                      failed           Fail, Cancel the other copy
    running   ExecutorLost, another copy lives               running
    running   ExecutorLost or TaskReturned, the last copy    pending, front
    running   ExecutorLost, the last copy, second loss       resting
    resting   Tick, the second one                           pending, front
    running   ExecutorLost, the last copy, third loss        poisoned         Poisoned
    running   Tick, nothing queued, far older than peers     running twice    Assign, next attempt
    failed    TaskSkipped                                    skipped
    poisoned  TaskSkipped                                    skipped
    any       RoundAborted                                   (forgotten)      Cancel each live copy
    any       ResultReceived, TaskFailed of no live copy     (unchanged)      Discard, counted
    any       TaskReturned of no live copy                   (unchanged)

When the last task of a round is done or skipped, RoundComplete follows and the round is forgotten. A
cancelled copy keeps its credit until its executor answers (with a result, a failure or TaskReturned), so
credit is never exceeded. Waiting is said once when tasks are queued and no executor lives that may take one.

Credit: shared notes on the protocol, 3.5. Copies of stragglers: Dean and Ghemawat, MapReduce, OSDI 2004,
section 3.6; the rule here is age > max(2 x median of the round, 5 s), one copy at a time. Each event costs
O(1) amortised; a Tick costs O(held tasks).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from master.dispatch_vocabulary import (
    Accept,
    Assign,
    Cancel,
    Command,
    CreditChanged,
    Discard,
    DispatchPaused,
    DispatchResumed,
    Event,
    ExecutorDraining,
    ExecutorJoined,
    ExecutorLost,
    Fail,
    Poisoned,
    ResultReceived,
    RoundAborted,
    RoundComplete,
    RoundOpened,
    TaskFailed,
    TaskId,
    TaskReturned,
    TaskSkipped,
    Tick,
    Waiting,
)
from master.executor_ring import Executor, ExecutorRing

POISON_LOSSES = 3  # executors lost while running one task before it is not tried again
_REST_TICKS = 2
"""So long a task rests that has lost two executors. Machines that go down together are noticed one after the other: a
task that moved on at once would lose three of them, and be taken for their murderer."""
STRAGGLER_FLOOR_S = 5.0
STRAGGLER_FACTOR = 2.0
_PEERS = 512  # finished tasks of a round whose durations are remembered


@dataclass(slots=True, eq=False)
class _Round:
    run: str
    round: int
    tasks: tuple[TaskId, ...]
    open: int  # tasks neither done nor skipped
    accepted: int = 0
    skipped: int = 0
    discarded: int = 0
    retried: int = 0
    copied: int = 0
    durations_s: deque[float] = field(default_factory=lambda: deque(maxlen=_PEERS))


@dataclass(slots=True, eq=False)
class _Entry:
    """One task. Pending: queued or resting, no copy. Running: one or two copies. Closed: no copy, not queued."""

    task: TaskId
    round: _Round
    attempt: int = 0  # the last one handed out
    copies: dict[int, str] = field(default_factory=dict)  # attempt -> executor, live ones only
    lost: list[str] = field(default_factory=list)  # executors lost while running it
    started_s: float | None = None  # the first tick that saw it held
    awaits_skip: bool = False  # failed or poisoned
    rest_ticks: int = 0


class Dispatcher:
    """The ledger of tasks and the ring of executors. `discarded` counts over its whole life."""

    def __init__(self) -> None:
        self.discarded = 0
        self._ring: ExecutorRing[_Entry] = ExecutorRing()
        self._rounds: dict[tuple[str, int], _Round] = {}
        self._ledger: dict[TaskId, _Entry] = {}
        self._queue: deque[_Entry] = deque()
        self._resting: list[_Entry] = []
        self._paused = False
        self._waiting = False
        self._now_s: float | None = None
        self._rules: dict[type, Callable[[Any, list[Command]], None]] = {
            ExecutorJoined: self._join,
            ExecutorLost: self._lose,
            ExecutorDraining: self._drain,
            CreditChanged: lambda event, _: self._ring.allow(event.executor, event.credit),
            RoundOpened: self._open,
            RoundAborted: self._abort,
            ResultReceived: self._result,
            TaskFailed: self._fail,
            TaskReturned: self._return,
            TaskSkipped: self._skip,
            DispatchPaused: self._pause,
            DispatchResumed: self._resume,
            Tick: self._tick,
        }

    def handle(self, event: Event) -> list[Command]:
        """What to do now, in this order. ValueError: an event that cannot be (a bug of the caller)."""
        commands: list[Command] = []
        self._rules[type(event)](event, commands)
        if self._queue:
            self._hand_out(commands)
        return commands

    @property
    def queued(self) -> int:
        """Tasks that go to whoever has room next."""
        return len(self._queue)

    @property
    def resting(self) -> int:
        """Tasks that have lost two executors, and wait a little."""
        return len(self._resting)

    def held(self, executor: str) -> int:
        """Tasks that count against the credit of `executor`; 0 for one that is not here."""
        found = self._ring.get(executor)
        return len(found.holds) if found else 0

    # executors

    def _join(self, event: ExecutorJoined, commands: list[Command]) -> None:
        self._ring.join(event.executor, event.slots, event.credit)
        self._waiting = False

    def _drain(self, event: ExecutorDraining, commands: list[Command]) -> None:
        self._ring.drain(event.executor)

    def _lose(self, event: ExecutorLost, commands: list[Command]) -> None:
        executor = self._ring.remove(event.executor)
        if executor is None:
            return
        again: list[_Entry] = []
        for position, ((_, attempt), entry) in enumerate(executor.holds.items()):
            if entry.copies.pop(attempt, None) is None:
                continue  # cancelled before
            if position < executor.slots:  # a task that was only prefetched killed nobody
                entry.lost.append(executor.name)
            if entry.copies:
                continue
            if len(entry.lost) >= POISON_LOSSES:
                entry.awaits_skip = True
                commands.append(Poisoned(entry.task, tuple(entry.lost)))
            elif len(entry.lost) == POISON_LOSSES - 1:
                entry.rest_ticks = _REST_TICKS
                self._resting.append(entry)
            else:
                again.append(entry)
        self._requeue(again)

    # rounds

    def _open(self, event: RoundOpened, commands: list[Command]) -> None:
        key = (event.run, event.round)
        if key in self._rounds:
            raise ValueError(f"round {event.round} of run {event.run!r} is already open")
        for task in event.tasks:
            if (task.run, task.round) != key:
                raise ValueError(f"{task} is no task of round {event.round} of run {event.run!r}")
        if len(set(event.tasks)) != len(event.tasks):
            raise ValueError(f"round {event.round} of run {event.run!r} names a task twice")
        opened = self._rounds[key] = _Round(*key, event.tasks, len(event.tasks))
        for task in event.tasks:
            entry = self._ledger[task] = _Entry(task, opened)
            self._queue.append(entry)
        self._complete_if_done(opened, commands)

    def _abort(self, event: RoundAborted, commands: list[Command]) -> None:
        aborted = self._rounds.get((event.run, event.round))
        if aborted is None:
            return
        self._queue = deque(entry for entry in self._queue if entry.round is not aborted)
        self._resting = [entry for entry in self._resting if entry.round is not aborted]
        for task in aborted.tasks:
            self._cancel_copies(self._ledger[task], commands)
        self._forget(aborted)

    def _skip(self, event: TaskSkipped, commands: list[Command]) -> None:
        entry = self._ledger.get(event.task)
        if entry is None or not entry.awaits_skip:
            raise ValueError(f"{event.task} is neither failed nor poisoned, so it cannot be skipped")
        entry.awaits_skip = False
        entry.round.skipped += 1
        self._close(entry, commands)

    def _close(self, entry: _Entry, commands: list[Command]) -> None:
        entry.round.open -= 1
        self._complete_if_done(entry.round, commands)

    def _complete_if_done(self, of: _Round, commands: list[Command]) -> None:
        if of.open == 0:
            counts = (of.accepted, of.skipped, of.discarded, of.retried, of.copied)
            commands.append(RoundComplete(of.run, of.round, *counts))
            self._forget(of)

    def _forget(self, over: _Round) -> None:
        del self._rounds[over.run, over.round]
        for task in over.tasks:
            del self._ledger[task]

    # answers

    def _release(self, event: ResultReceived | TaskFailed | TaskReturned) -> _Entry | None:
        """Give the credit back; the entry, if what the executor held was a live copy."""
        entry = self._ring.release(event.executor, event.task, event.attempt)
        return entry if entry is not None and entry.copies.pop(event.attempt, None) is not None else None

    def _result(self, event: ResultReceived, commands: list[Command]) -> None:
        entry = self._release(event)
        if entry is None:
            self._discard(event, commands)
            return
        commands.append(Accept(event.executor, event.task, event.attempt))
        self._cancel_copies(entry, commands)
        entry.round.accepted += 1
        if self._now_s is not None:
            started_s = self._now_s if entry.started_s is None else entry.started_s
            entry.round.durations_s.append(self._now_s - started_s)
        self._close(entry, commands)

    def _fail(self, event: TaskFailed, commands: list[Command]) -> None:
        entry = self._release(event)
        if entry is None:
            self._discard(event, commands)
            return
        entry.awaits_skip = True
        commands.append(Fail(event.executor, event.task, event.report))
        self._cancel_copies(entry, commands)

    def _return(self, event: TaskReturned, commands: list[Command]) -> None:
        entry = self._release(event)
        if entry is not None and not entry.copies:
            self._requeue([entry])

    def _discard(self, event: ResultReceived | TaskFailed, commands: list[Command]) -> None:
        self.discarded += 1
        opened = self._rounds.get((event.task.run, event.task.round))
        if opened is not None:
            opened.discarded += 1
        commands.append(Discard(event.executor, event.task, event.attempt))

    def _cancel_copies(self, entry: _Entry, commands: list[Command]) -> None:
        for attempt, executor in entry.copies.items():
            commands.append(Cancel(executor, entry.task, attempt))
        entry.copies.clear()

    # handing out

    def _requeue(self, entries: list[_Entry]) -> None:
        for entry in reversed(entries):
            entry.started_s = None
            entry.round.retried += 1
            self._queue.appendleft(entry)

    def _hand_out(self, commands: list[Command]) -> None:
        if not self._ring.accepting:
            if not self._waiting:
                self._waiting = True
                commands.append(Waiting(len(self._queue)))
            return
        if self._paused:
            return
        while self._queue and (executor := self._ring.next()) is not None:
            self._assign(self._queue.popleft(), executor, commands)

    def _assign(self, entry: _Entry, executor: Executor[_Entry], commands: list[Command]) -> None:
        entry.attempt += 1
        entry.copies[entry.attempt] = executor.name
        self._ring.hold(executor, entry.task, entry.attempt, entry)
        commands.append(Assign(executor.name, entry.task, entry.attempt))

    def _pause(self, event: DispatchPaused, commands: list[Command]) -> None:
        self._paused = True

    def _resume(self, event: DispatchResumed, commands: list[Command]) -> None:
        self._paused = False

    # stragglers

    def _tick(self, event: Tick, commands: list[Command]) -> None:
        self._now_s = event.now_s
        for entry in self._resting:
            entry.rest_ticks -= 1
        self._requeue([entry for entry in self._resting if not entry.rest_ticks])
        self._resting = [entry for entry in self._resting if entry.rest_ticks]
        running: list[_Entry] = []
        for executor in self._ring:
            for (_, attempt), entry in executor.holds.items():
                if attempt in entry.copies and len(entry.copies) == 1:
                    if entry.started_s is None:
                        entry.started_s = event.now_s
                    running.append(entry)
        if not self._queue and not self._paused:
            for entry in running:
                self._copy_if_straggling(entry, event.now_s, commands)

    def _copy_if_straggling(self, entry: _Entry, now_s: float, commands: list[Command]) -> None:
        peers = entry.round.durations_s
        if not peers or entry.started_s is None:
            return
        if now_s - entry.started_s <= max(STRAGGLER_FACTOR * median(peers), STRAGGLER_FLOOR_S):
            return
        executor = self._ring.next_idle(other_than=entry.copies.values())
        if executor is not None:
            entry.round.copied += 1
            self._assign(entry, executor, commands)
