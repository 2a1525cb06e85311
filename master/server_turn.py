"""The server's turn between two rounds' local work, and which thread takes it.

Usually that is the server's own. But a slot of this process that has run the only task of a round takes the turn
itself, before the event loop hears of its result: two hand-overs between threads less, and the replies are still in its
caches. It may lead the next rounds too (`master.server_rounds`), of which the event loop takes those that are done
whenever it wants to.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from master.side_thread import settle

if TYPE_CHECKING:
    from fl_core.execution.cohort import CohortResult
    from fl_core.execution.reduction import Gathering
    from master.cluster import Ending, Lane
    from master.side_thread import SideThread

T = TypeVar("T")


class _Concluded(NamedTuple):
    """What a slot's turns have given or raised, so far."""

    result: object
    error: BaseException | None = None


class ServerTurn(Generic[T]):
    """The turn after one round, taken once. All but `conclude` is called on the event loop.

    Args:
        thread: the server's.
        gathering: of the round's results.
        turns: given the slot that takes the turn, if one does, gives what the turn has returned, then all that it and
            further ones have returned, …: a step for each turn, and one between two of them that is nobody's turn (as
            `master.server_rounds.ServerRounds.turns`). Without a slot only the first is taken.

    Attributes:
        outcome: the last that `turns` gave, or what it has raised; None: the round was given up.
    """

    def __init__(
        self, thread: SideThread, gathering: Gathering, turns: Callable[[Lane | None], Iterator[T | None]]
    ) -> None:
        self.outcome: asyncio.Future[T | None] = asyncio.get_running_loop().create_future()
        self._thread = thread
        self._gathering = gathering
        self._turns = turns
        self._failure: Exception | None = None
        # Held by a slot in a turn, and at the end by whoever came first: the slot, or the event loop when it is over.
        self._claim = threading.Lock()
        self._concluded: _Concluded | None = None
        self._has_ended = False
        self._is_over = False

    def take(self, index: int, result: CohortResult) -> None:
        """A result of the round has arrived."""
        if self._concluded is None and self._gathering.add(index, result):
            self._thread.call(self._fold)

    def conclude(self, index: int, result: CohortResult, lane: Lane) -> None:
        """Take the turn here and now, with the result of the round's only task, unless the round is over.

        And further turns, until the event loop takes over: it may at any time but within a turn. In the slot's thread.
        """
        turns, has_more = self._turns(lane), True
        while True:
            with self._thread.lent:
                if self._is_over or not self._claim.acquire(blocking=False):
                    return
                if self._concluded is None:
                    self._gathering.add(index, result)
                if not (has_more and self._advance(turns)):
                    self._has_ended = True  # the claim stays here
                    return
                self._claim.release()
            has_more = next(turns, _END) is not _END

    def _advance(self, turns: Iterator[T | None]) -> bool:
        """Take a turn. False: there is none left, or it has failed."""
        try:
            found = next(turns, None)
        except BaseException as error:  # a user's code may even leave the interpreter
            self._concluded = _Concluded(None, error)
            return False
        if found is not None:
            self._concluded = _Concluded(found)
        return found is not None

    def over(self, ending: Ending) -> None:
        """The cluster has no more results of this round. It is not given up if a slot has taken the turn."""
        self._is_over = True
        is_free = self._claim.acquire(blocking=False)
        if self.outcome.done():  # the run was cancelled
            return
        if not (is_free or self._has_ended):
            # In this very moment: the server's thread comes to a call when the slot is done with the turn.
            self._thread.call(_nothing).add_done_callback(lambda _: self.over(ending))
        elif self._concluded is not None:
            settle(self.outcome, *self._concluded)
            self._concluded = None  # an error's frames hold this turn
        elif ending == "complete":
            self._thread.call_for(self.outcome, self._taken)
        elif isinstance(ending, Exception):
            self.outcome.set_exception(ending)
        else:
            self.outcome.set_result(None)

    def _fold(self) -> None:
        try:
            self._gathering.fold()
        except Exception as error:  # raised in the turn, which comes after it
            self._failure = self._failure or error

    def _taken(self) -> T:
        if self._failure is not None:
            raise self._failure
        found = next(self._turns(None))
        assert found is not None, "the first step is a turn"
        return found


_END = object()


def _nothing() -> None:
    pass


__all__ = ["ServerTurn"]
