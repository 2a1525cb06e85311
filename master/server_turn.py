"""The server's turn between two rounds' local work, and which thread takes it.

Usually that is the server's own. But a slot of this process that has run the only task of a round takes the turn
itself, before the event loop hears of its result: two hand-overs between threads less, and the replies are still in its
caches. It may lead the next rounds too (`master.server_rounds`).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from master.side_thread import settle

if TYPE_CHECKING:
    from fl_core.execution.cohort import CohortResult
    from fl_core.execution.reduction import Gathering
    from master.cluster import Ending, Lane
    from master.side_thread import SideThread

T = TypeVar("T")


class _Concluded(NamedTuple):
    """What a slot's turn has returned or raised."""

    result: object
    error: BaseException | None


class ServerTurn(Generic[T]):
    """The turn after one round, taken once. All but `conclude` is called on the event loop.

    Args:
        thread: the server's.
        gathering: of the round's results.
        turn: what is to be done when all results are gathered; given the slot that takes the turn, if one does.

    Attributes:
        outcome: what `turn` returns or raises; None: the round was given up.
    """

    def __init__(self, thread: SideThread, gathering: Gathering, turn: Callable[[Lane | None], T]) -> None:
        self.outcome: asyncio.Future[T | None] = asyncio.get_running_loop().create_future()
        self._thread = thread
        self._gathering = gathering
        self._turn = turn
        self._failure: Exception | None = None
        self._claim = threading.Lock()  # acquired once: by the slot that takes the turn, or when the round is over
        self._concluded: _Concluded | None = None

    def take(self, index: int, result: CohortResult) -> None:
        """A result of the round has arrived."""
        if self._concluded is None and self._gathering.add(index, result):
            self._thread.call(self._fold)

    def conclude(self, index: int, result: CohortResult, lane: Lane) -> None:
        """Take the turn here and now, with the result of the round's only task, unless the round is over.

        In the thread of the slot.
        """
        with self._thread.lent:
            if not self._claim.acquire(blocking=False):
                return
            try:
                self._gathering.add(index, result)
                self._concluded = _Concluded(self._turn(lane), None)
            except BaseException as error:  # a user's code may even leave the interpreter
                self._concluded = _Concluded(None, error)

    def over(self, ending: Ending) -> None:
        """The cluster has no more results of this round. It is not given up if a slot has taken the turn."""
        if not self._claim.acquire(blocking=False):
            if self._concluded is not None:
                self._tell()
            else:  # in this very moment: the server's thread comes to a call when the slot is done
                self._thread.call(_nothing).add_done_callback(lambda _: self._tell())
        elif self.outcome.done():  # the run was cancelled
            return
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
        return self._turn(None)

    def _tell(self) -> None:
        assert self._concluded is not None
        settle(self.outcome, *self._concluded)
        self._concluded = None  # an error's frames hold this turn


def _nothing() -> None:
    pass


__all__ = ["ServerTurn"]
