"""What the Run tab shows: the dashboard of some runs, folded from their event files as they grow."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.text import Text

from master.events import RunFinished
from master.flctl.following import Following
from master.flctl.stored_run import is_locked
from master.observers.dashboard_state import State, fold
from master.observers.dashboard_view import view

_MOST_EVENTS = 20_000
"""Events folded in one look, so that a long run's past does not hold the screen."""
_NOT_FRAME = re.compile(r"[^╭╮╰╯│─┬┴┼├┤]")


class Watching:
    """Runs that are looked at, under way or over.

    Args:
        folders: lists the run folders that are there by now.
    """

    def __init__(self, folders: Callable[[], Sequence[Path]]) -> None:
        self._folders = folders
        self._following = Following(folders)
        self._pending = iter(self._following.new())
        self._ended: set[str] = set()
        self.state = State(watched=True)
        self.is_live = False

    @classmethod
    def nothing(cls) -> Watching:
        """No run."""
        return cls(tuple)

    def look(self) -> bool:
        """Fold what is new; whether anything was. InputError: a line of a file is damaged."""
        self.is_live = any(is_locked(folder) for folder in self._folders())
        before = self.state
        for _ in range(_MOST_EVENTS):
            event = next(self._pending, None)
            if event is None:
                self._pending = iter(self._following.new())
                break
            self.state = fold(self.state, event)
        if self.is_live:
            self.state = replace(self.state, now_s=time.time())
        elif before is self.state:
            self._complete()
        return self.state is not before

    def draw(self, width: int, height: int, page: int = 0, chosen: int = 0) -> Text:
        """The dashboard on so many cells, without the line of its keys: the workbench has its own."""
        screen = view(self.state, width, height, page, chosen)
        *lines, keys = screen.split("\n")
        bottom = Text("╰" + _NOT_FRAME.sub("─", keys.plain)[1:-1] + "╯", style="grey42")
        return Text("\n").join([*lines, bottom])

    def _complete(self) -> None:
        """Say of a run whose process ended without a word that it is over."""
        for name, run in self.state.runs.items():
            if run.ended is None:
                text = "its process ended without a word; flmaster goes on with it"
                ended = RunFinished(time_s=self.state.now_s, run=name, reason="interrupted", summary={}, text=text)
                self.state = fold(self.state, ended)


__all__ = ["Watching"]
