"""A thread beside the event loop: torch's work of the server, and what waits for a disk.

What `loop.run_in_executor` does, at less than half of its steps: between two short rounds they are what the run waits
for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, NamedTuple, TypeVar, TypeVarTuple

from fl_core.intra_op import use_intra_op_threads
from fl_core.side_jobs import next_job

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _Call(NamedTuple):
    future: asyncio.Future[Any]
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class SideThread:
    """Runs functions one after another, in the order they came. All calls are on the event loop.

    The thread begins with the first function. Its torch computes with one thread, as everywhere in a run.

    Attributes:
        lent: held while a function runs; who holds it, in whichever thread, acts in this one's place.
    """

    def __init__(self, name: str) -> None:
        self.lent = Lock()
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name=name, daemon=False)
        self._closed = False

    def call(self, function: Callable[[*Ts], T], *arguments: *Ts) -> asyncio.Future[T]:
        """What the function returns or raises, when its turn has come."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.call_for(future, function, *arguments)
        return future

    def call_for(self, future: asyncio.Future[Any], function: Callable[[*Ts], Any], *arguments: *Ts) -> None:
        """The same, for a future that exists already. Raises RuntimeError after `close`."""
        if self._closed:
            raise RuntimeError(f"the thread {self._thread.name} has ended")
        if not self._thread.ident:
            self._thread.start()
        self._calls.put(_Call(future, function, arguments))

    def close(self) -> None:
        """Wait for what was called, and end the thread. Twice is once."""
        if not self._closed and self._thread.ident:
            self._calls.put(None)
            self._thread.join()
        self._closed = True

    def _run(self) -> None:
        use_intra_op_threads()
        while (call := next_job(self._calls)) is not None:
            future, error, result = call.future, None, None
            try:
                with self.lent:
                    result = call.function(*call.arguments)
            except BaseException as raised:  # a user's code may even leave the interpreter
                error = raised
            with suppress(RuntimeError):  # the loop has ended: nobody waits
                future.get_loop().call_soon_threadsafe(settle, future, result, error)
            del call, future, error, result  # they may be large, and the next call may be long in coming


def settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """Give the future what a function has returned or raised, unless whoever waited was cancelled."""
    if future.done():
        return
    if error is not None:  # a future refuses StopIteration
        future.set_exception(RuntimeError("StopIteration was raised") if isinstance(error, StopIteration) else error)
    else:
        future.set_result(result)
