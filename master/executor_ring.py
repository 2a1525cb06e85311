"""The ring of executors: whose turn it is, and how many tasks each holds against its credit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from master.dispatch_vocabulary import TaskId

T = TypeVar("T")
_IDLE, _PREFETCH = 0, 1


@dataclass(slots=True, eq=False)
class Executor(Generic[T]):
    """One incarnation of a pool or worker, and what it holds: (task, attempt) -> T, oldest first."""

    name: str
    slots: int
    credit: int
    draining: bool = False
    ready: int | None = None  # the list of the ready it stands in
    holds: dict[tuple[TaskId, int], T] = field(default_factory=dict)


class ExecutorRing(Generic[T]):
    """Round-robin among executors with a free slot, then among those that could prefetch. All is O(1)."""

    def __init__(self) -> None:
        self._executors: dict[str, Executor[T]] = {}
        self._ready: tuple[OrderedDict[str, Executor[T]], ...] = (OrderedDict(), OrderedDict())
        self.accepting = 0  # executors that are not draining

    def __iter__(self) -> Iterator[Executor[T]]:
        return iter(self._executors.values())

    def get(self, name: str) -> Executor[T] | None:
        """The executor of that name, if it is here."""
        return self._executors.get(name)

    def join(self, name: str, slots: int, credit: int) -> None:
        """A newcomer, last in turn. ValueError: the name is here already, or it could run nothing."""
        if name in self._executors:
            raise ValueError(f"executor {name!r} joined twice; one that returns needs a new id")
        if not 1 <= slots <= credit:
            raise ValueError(f"executor {name!r} joined with {slots} slots and {credit} credit")
        executor = self._executors[name] = Executor(name, slots, credit)
        self.accepting += 1
        self._place(executor)

    def drain(self, name: str) -> None:
        """It gets no further turn."""
        executor = self._executors.get(name)
        if executor is not None and not executor.draining:
            executor.draining = True
            self.accepting -= 1
            self._place(executor)

    def allow(self, name: str, credit: int) -> None:
        """It may hold so many from now on, but never fewer than it can run."""
        executor = self._executors.get(name)
        if executor is not None:
            executor.credit = max(credit, executor.slots)
            self._place(executor)

    def remove(self, name: str) -> Executor[T] | None:
        """It is gone; what it held is in the answer."""
        self.drain(name)
        return self._executors.pop(name, None)

    def hold(self, executor: Executor[T], task: TaskId, attempt: int, entry: T) -> None:
        """One credit is used, and its turn is over."""
        executor.holds[task, attempt] = entry
        if executor.ready is not None:
            self._ready[executor.ready].move_to_end(executor.name)
        self._place(executor)

    def release(self, name: str, task: TaskId, attempt: int) -> T | None:
        """One credit is free again. None: it did not hold that."""
        executor = self._executors.get(name)
        if executor is None:
            return None
        entry = executor.holds.pop((task, attempt), None)
        if entry is not None:
            self._place(executor)
        return entry

    def next(self) -> Executor[T] | None:
        """Whose turn it is; None when nobody has credit."""
        ready = self._ready[_IDLE] or self._ready[_PREFETCH]
        return next(iter(ready.values())) if ready else None

    def next_idle(self, other_than: Collection[str]) -> Executor[T] | None:
        """Whose turn it is among those with a free slot that are not `other_than`."""
        idle = (executor for name, executor in self._ready[_IDLE].items() if name not in other_than)
        return next(idle, None)

    def _place(self, executor: Executor[T]) -> None:
        """Put it at the end of the list it belongs to, unless it stands there already."""
        held = len(executor.holds)
        if executor.draining or held >= executor.credit:
            belongs = None
        else:
            belongs = _IDLE if held < executor.slots else _PREFETCH
        if belongs == executor.ready:
            return
        if executor.ready is not None:
            del self._ready[executor.ready][executor.name]
        executor.ready = belongs
        if belongs is not None:
            self._ready[belongs][executor.name] = executor
