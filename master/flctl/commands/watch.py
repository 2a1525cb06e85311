"""`flctl watch RUN`: the dashboard of a run, from its event file, in another terminal or another year."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import click

from master.event_stream import EventStream
from master.events import Event, RunFinished
from master.flctl.finding import find_runs
from master.flctl.following import Following
from master.flctl.options import runs_argument, runs_dir_option
from master.flctl.stored_run import StoredRun, is_locked
from master.observers.text_log import TextLog
from protocol.errors import InputError

_READ_S = 0.2
_LOOK_S = 1.0
_BETWEEN_RUNS_S = 5.0
"""Between two runs of a sweep none is under way: so long may the next one take to load its data."""
_CHUNK = 500
"""Events between two moments in which keys are read and the screen is drawn."""
_LONGEST_GAP_S = 2.0
"""With --speed: the runs of a sweep may lie days apart."""


@click.command(name="watch")
@runs_argument
@runs_dir_option
@click.option("--speed", type=click.FloatRange(min=0, min_open=True), help="Replay from the start, X times as fast.")
@click.option("--follow/--no-follow", default=True, help="Without a terminal: go on while a run is under way.")
def command(*, runs: tuple[str, ...], runs_dir: Path, speed: float | None, follow: bool) -> None:
    """Shows the dashboard of RUN, running or finished; q leaves it, and the run goes on.

    \b
      flctl watch digits-fedavg                  every run of a sweep, as they come
      flctl watch fedavg-s1-d6ae --speed 20      what it looked like, 20 times as fast
      flctl watch fedavg-s1-d6ae | grep -v round

    Without a terminal it prints the lines of log.txt, and ends with the run.
    """
    if not runs:
        raise InputError("watch needs a RUN (or a folder of runs)")
    found = find_runs(runs, runs_dir)
    watch = Watch(found, runs, runs_dir)
    if sys.stdout.isatty():
        asyncio.run(watch.on_screen(speed))
    else:
        asyncio.run(watch.as_lines(speed, follow))


class Watch:
    """Reads the events of some runs, on and on.

    Args:
        runs: the runs named at first.
        words, runs_dir: what was typed, to find the runs of a sweep that are begun later.
    """

    def __init__(self, runs: Sequence[StoredRun], words: Sequence[str], runs_dir: Path) -> None:
        self._words, self._runs_dir = words, runs_dir
        self._paths = [run.path for run in runs]
        self._is_sweep = len(runs) > 1 or any(word not in (run.name, str(run.path)) for run in runs for word in words)
        self._following = Following(lambda: self._paths)
        self._stream = EventStream(time.time)
        self._left = asyncio.Event()
        self._is_open: dict[str, bool] = {}  # run -> whether it has not said its end
        self._last_s = 0.0  # time of the last event
        self._is_live = False  # a process writes to one of them
        self._replays = False
        self._looked_s = -_LOOK_S

    async def on_screen(self, speed: float | None) -> None:
        """The dashboard until q is pressed."""
        from rich.console import Console

        from master.observers.dashboard import Dashboard

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._left.set)
        async with Dashboard(Console(), self._left.set, clock=self._clock) as dashboard:
            self._stream.subscribe(dashboard)
            await self._replay(speed)
            while not self._left.is_set():
                self._look()
                await self._hand_on()
                self._complete()
                await self._pause(_READ_S)

    async def as_lines(self, speed: float | None, follow: bool) -> None:
        """The lines of the log until no run is under way."""
        self._stream.subscribe(TextLog(sys.stdout, timestamps=True))
        await self._replay(speed)
        alive_s = -_BETWEEN_RUNS_S
        while True:
            self._look()  # before the last events are read
            now_s = time.monotonic()
            alive_s = now_s if self._is_live else alive_s
            is_over = not self._is_live and (not self._is_sweep or now_s - alive_s >= _BETWEEN_RUNS_S)
            await self._hand_on()
            if is_over or not follow:
                break
            await self._pause(_READ_S)
        self._complete()

    # --- parts -----------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Once a second, whether a run is under way, and whether a new one was begun."""
        now_s = time.monotonic()
        if now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        if self._is_sweep:
            known = {path.resolve() for path in self._paths}
            found = find_runs(self._words, self._runs_dir)
            self._paths += [run.path for run in found if run.path.resolve() not in known]
        self._is_live = any(is_locked(path) for path in self._paths)

    def _clock(self) -> float:
        """Now, while something runs; else time stands still: nobody has been silent for a year."""
        return time.time() if self._is_live and not self._replays else self._last_s

    def _emit(self, event: Event) -> None:
        self._last_s = max(self._last_s, event.time_s)
        run = getattr(event, "run", None)
        if run is not None:
            self._is_open[run] = not isinstance(event, RunFinished)
        self._stream.emit(event)

    async def _hand_on(self) -> None:
        for number, event in enumerate(self._following.new(), start=1):
            self._emit(event)
            if number % _CHUNK == 0:
                await asyncio.sleep(0)
                if self._left.is_set():
                    return

    async def _replay(self, speed: float | None) -> None:
        """What is stored by now, at a multiple of its own pace, if that is asked."""
        if speed is None:
            return
        self._replays = True
        before_s: float | None = None
        for event in self._following.new():
            gap_s = 0.0 if before_s is None else min(_LONGEST_GAP_S, (event.time_s - before_s) / speed)
            before_s = event.time_s
            if gap_s > 0:
                await self._pause(gap_s)
            if self._left.is_set():
                return
            self._emit(event)
        self._replays = False

    async def _pause(self, seconds_s: float) -> None:
        """Until then, or until q."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds_s):
                await self._left.wait()

    def _complete(self) -> None:
        """Say of a run whose process ended without a word that it is over."""
        for path in self._paths:
            if self._is_open.get(path.name) and not is_locked(path):
                text = "its process ended without a word; flmaster goes on with it"
                self._emit(RunFinished(time_s=self._last_s, run=path.name, reason="interrupted", summary={}, text=text))
