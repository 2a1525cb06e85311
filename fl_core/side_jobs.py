"""How a thread that serves a queue waits for its next job, and does not keep the interpreter from leaving."""

from __future__ import annotations

from queue import Empty, SimpleQueue
from threading import main_thread
from typing import TypeVar

T = TypeVar("T")
_LOOK_S = 1.0


def next_job(jobs: SimpleQueue[T | None]) -> T | None:
    """The next job. None: there will be no more, as the queue says, or since the program has ended.

    So a thread need not be a daemon, which is cut off in the middle of what it does; in torch that may end in an abort.
    """
    while True:
        try:
            return jobs.get(timeout=_LOOK_S)
        except Empty:
            if not main_thread().is_alive():
                return None


__all__ = ["next_job"]
