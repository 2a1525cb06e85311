"""Plays a story on a real terminal until q is pressed: `play_dashboard.py WORKERS [live|broken]`. Not a test.

With live the story goes on for minutes, for a look by eye; with broken the third frame fails. Something prints
to standard output and standard error meanwhile, from Python and past it, as libraries do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import runpy
import sys
import time
from pathlib import Path

import msgspec
from rich.console import Console

from master.event_stream import EventStream
from master.events import Event, Paused, Resumed, RunFinished, RunStarted, Stopping, WorkerStatus
from master.observers.dashboard import Dashboard

tell = runpy.run_path(str(Path(__file__).with_name("conftest.py")))["tell"]


class FailingClock:
    """Says the time twice, then fails once."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> float:
        self.calls += 1
        if self.calls == 3:
            raise ZeroDivisionError("the third frame")
        return time.time()


async def play(workers: int, how: str) -> None:
    """Tell the story, then wait for q."""
    live = how == "live"
    stopped = asyncio.Event()
    stream = EventStream(time.time)
    paused = False

    def stop() -> None:
        stream.emit(Stopping(time_s=time.time(), reason="q was pressed"))
        stopped.set()

    def pause() -> None:
        nonlocal paused
        paused = not paused
        stream.emit(Paused(time_s=time.time()) if paused else Resumed(time_s=time.time()))

    run = ""
    clock = FailingClock() if how == "broken" else time.time
    async with Dashboard(Console(), stop, pause, clock=clock) as dashboard:
        stream.subscribe(dashboard)
        told: list[Event] = list(tell(workers, 300 if live else 62, of=300 if live else 100))
        shift_s = time.time() - told[0].time_s if live else time.time() - told[-1].time_s
        for event in told:
            run = event.run if isinstance(event, RunStarted) else run
            due_s = event.time_s + shift_s
            if live and due_s > time.time():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopped.wait(), due_s - time.time())
            if stopped.is_set():
                break
            if isinstance(event, WorkerStatus) and event.last_heard_s is not None:
                event = msgspec.structs.replace(event, last_heard_s=event.last_heard_s + shift_s)
            stream.emit(msgspec.structs.replace(event, time_s=due_s))
        if how == "broken":
            print(f"the run went on: {await asyncio.to_thread(sys.stdin.readline)}")
            return
        os.write(2, b"written \x1b[2J by a library\n")
        print("printed by python")
        await stopped.wait()
        stream.emit(RunFinished(time_s=time.time(), run=run, reason="stopped", summary={"accuracy": 0.9}))
    print("after the screen")


asyncio.run(play(int(sys.argv[1]), "".join(sys.argv[2:])))
