"""The live screen: folds events as they come, draws four times a second, reads keys, and leaves no trace.

Drawing happens in a thread from a frozen state, never from an observer: a slow terminal cannot slow a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

from rich.console import Console
from rich.live import Live

from master.events import Event
from master.observers.dashboard_state import State, fold, log
from master.observers.dashboard_view import summary, view
from master.observers.keys import KeyReader
from master.observers.stray_output import StrayOutput
from master.observers.units import printable

REFRESH_S = 0.25
_IDLE_REFRESH_S = 1.0  # clocks still move when nothing happens
# terminals that know these show a frame whole or not at all, the others ignore them
_BEGIN_FRAME, _END_FRAME = "\x1b[?2026h", "\x1b[?2026l"
_KEPT_OUTPUT = 50  # lines of stray output printed again at the end


class Dashboard:
    """An observer with a screen. Use it as an asynchronous context manager around the run.

    `console` must be on a terminal. `on_stop` and `on_pause` are called on the event loop when q and p are
    pressed; what they do comes back as events (Stopping, Paused, Resumed). Without `on_pause` the run belongs to
    another process: the screen only watches it, and q leaves it alone. `on_output` gets each line that
    something else printed meanwhile; the last of them are printed again after the screen is gone.
    """

    def __init__(
        self,
        console: Console,
        on_stop: Callable[[], None],
        on_pause: Callable[[], None] | None = None,
        *,
        on_output: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._console = console
        self._on_stop, self._on_pause, self._on_output = on_stop, on_pause, on_output
        self._clock = clock
        self._state = State(watched=on_pause is None)
        self._page = self._chosen = 0
        self._changed = asyncio.Event()
        self._closed = asyncio.Event()
        self._keys = KeyReader()
        self._stray = StrayOutput()
        self._output: deque[str] = deque(maxlen=_KEPT_OUTPUT)
        self._refresher: asyncio.Task[None] | None = None
        self._cleanup = contextlib.ExitStack()

    @property
    def state(self) -> State:
        """What is on screen."""
        return self._state

    def observe(self, event: Event) -> None:
        """Fold the event; the next refresh shows it."""
        self._state = fold(self._state, event)
        self._changed.set()

    def close(self) -> None:
        """Nothing to do: the context manager ends the screen."""

    async def __aenter__(self) -> Dashboard:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._own_terminal())
            live = Live(
                console=self._console,
                screen=True,
                auto_refresh=False,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._set_size()
            stack.enter_context(live)
            stack.enter_context(self._reading_keys())
            stack.enter_context(self._minding_size())
            self._cleanup = stack.pop_all()
        self._refresher = asyncio.create_task(self._refresh(live), name="dashboard")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed.set()
        self._changed.set()
        try:
            if self._refresher is not None:
                await self._refresher  # never in the middle of a frame
        finally:
            self._cleanup.close()
            self._take_output()
            self._console.print(summary(self._state, self._console.width))
            for line in self._output:
                print(line, file=sys.stderr)

    async def _refresh(self, live: Live) -> None:
        """Draw until the end. A drawing that fails gives the terminal back and lets the run go on."""
        try:
            while not self._closed.is_set():
                self._take_output()
                state = replace(self._state, now_s=self._clock())
                await asyncio.to_thread(self._draw, live, state, self._page, self._chosen)
                await _until(self._closed, REFRESH_S)
                await _until(self._changed, _IDLE_REFRESH_S - REFRESH_S)
                self._changed.clear()
        except Exception as error:
            self._cleanup.close()
            print(f"the dashboard failed, the run goes on: {type(error).__name__}: {error}", file=sys.stderr)

    def _draw(self, live: Live, state: State, page: int, chosen: int) -> None:
        self._set_size()
        screen = view(state, self._console.width, self._console.height, page, chosen)
        self._console.file.write(_BEGIN_FRAME)
        live.update(screen, refresh=True)
        self._console.file.write(_END_FRAME)
        self._console.file.flush()

    def _set_size(self) -> None:
        # rich asks descriptors 0 to 2, which are not the terminal now
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(self._console.file.fileno())
            self._console.size = (size.columns, size.lines)

    def _take_output(self) -> None:
        for line in map(printable, self._stray.lines()):
            self._output.append(line)
            self._state = log(self._state, self._clock(), line, "output")
            if self._on_output is not None:
                self._on_output(line)

    @contextlib.contextmanager
    def _own_terminal(self) -> Iterator[None]:
        """The console writes past the pipe that catches everyone else."""
        before = self._console.file
        descriptor = os.dup(before.fileno())
        terminal = open(descriptor, "w", encoding="utf-8", errors="replace")  # noqa: PTH123, SIM115
        self._stray.start()
        self._console.file = terminal
        try:
            yield
        finally:
            self._stray.stop()
            self._console.file = before
            terminal.close()

    @contextlib.contextmanager
    def _reading_keys(self) -> Iterator[None]:
        """Keys come one by one and are not echoed; without a terminal on standard input there are none."""
        if not os.isatty(0):
            yield
            return
        loop = asyncio.get_running_loop()
        before = termios.tcgetattr(0)
        tty.setcbreak(0, termios.TCSADRAIN)
        loop.add_reader(0, self._read_keys)
        try:
            yield
        finally:
            loop.remove_reader(0)
            termios.tcsetattr(0, termios.TCSADRAIN, before)

    @contextlib.contextmanager
    def _minding_size(self) -> Iterator[None]:
        """A terminal that changes its size is drawn anew at once."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGWINCH, self._changed.set)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGWINCH)

    def _read_keys(self) -> None:
        received = os.read(0, 1024)
        if not received:  # the terminal is gone
            asyncio.get_running_loop().remove_reader(0)
        for key in self._keys.feed(received):
            self._press(key)
        self._changed.set()

    def _press(self, key: str) -> None:
        match key:
            case "q":
                self._on_stop()
            case "p" if self._on_pause is not None:
                self._on_pause()
            case "right" | " ":
                self._page += 1
            case "left":
                self._page -= 1
            case "up" | "down":
                self._turn(-1 if key == "up" else 1)

    def _turn(self, by: int) -> None:
        """Another of the runs under way; with one alone, another page."""
        if sum(run.ended is None for run in self._state.runs.values()) > 1:
            self._chosen += by
        else:
            self._page += by


async def _until(happened: asyncio.Event, at_most_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(happened.wait(), at_most_s)
