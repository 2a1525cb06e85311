"""The Run tab: the dashboard of what was launched here, or of any stored run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Button, Static

from fl_core.errors import InputError
from master.workbench.launching import Launched, spelled
from master.workbench.watching import Watching

_LOOK_S = 0.25
_NOTHING = """


  Nothing runs here yet.

  Launch the experiment of the Configure tab (F5),
  or choose a run in Analyse and press w to watch it."""


class Dashboard(Widget, can_focus=True):
    """The screen of `flctl watch`, as large as there is room."""

    BINDINGS = [  # noqa: RUF012  Textual's own way to declare keys
        Binding("left", "turn(-1)", "page", show=False),
        Binding("right", "turn(1)", "page"),
        Binding("up", "choose(-1)", "run", show=False),
        Binding("down", "choose(1)", "run"),
    ]

    def __init__(self) -> None:
        super().__init__(id="dashboard")
        self.watching: Watching | None = None
        self._page = self._chosen = 0

    def render(self) -> Text:
        """What is known, or what to do."""
        if self.watching is None:
            return Text(_NOTHING, style="grey62")
        return self.watching.draw(self.size.width, self.size.height, self._page, self._chosen)

    def action_turn(self, by: int) -> None:
        """Another page of workers and metrics."""
        self._page += by
        self.refresh()

    def action_choose(self, by: int) -> None:
        """Another of the runs under way."""
        self._chosen += by
        self.refresh()


class RunPane(Vertical):
    """Watches runs, and stops the flmaster that was launched here."""

    class Stop(Message):
        """The button."""

    def __init__(self) -> None:
        super().__init__(id="run-pane")
        self._launched: Launched | None = None
        self._broken = ""

    def compose(self) -> ComposeResult:
        """The dashboard, and a line about the process."""
        yield Dashboard()
        with Horizontal(id="process-bar"):
            yield Static("", id="process")
            yield Button("Stop and save", id="stop", variant="error", disabled=True)

    def on_mount(self) -> None:
        """Look four times a second."""
        self.set_interval(_LOOK_S, self.look)

    def watch_runs(self, folders: Callable[[], Sequence[Path]], launched: Launched | None = None) -> None:
        """Show these runs from now on."""
        self.query_one(Dashboard).watching = Watching(folders)
        self._broken = ""
        if launched is not None:
            self._launched = launched
        self.look()

    @property
    def watching(self) -> Watching | None:
        """What is shown."""
        return self.query_one(Dashboard).watching

    def look(self) -> None:
        """Fold what is new and draw it."""
        dashboard = self.query_one(Dashboard)
        if dashboard.watching is not None and not self._broken:
            try:
                if dashboard.watching.look():
                    dashboard.refresh()
            except InputError as error:  # a damaged file: say it once, show what was read
                self._broken = str(error)
                self.notify(self._broken, severity="error", timeout=20)
        self._tell()

    def _tell(self) -> None:
        launched = self._launched
        self.query_one("#stop", Button).disabled = launched is None or not launched.is_running
        if launched is None:
            return
        said = Text.assemble(("$ ", "bold #7aa2f7"), (spelled(launched.command), "grey78"))
        said.append("  running" if launched.is_running else f"  {ended(launched.exit_code)}", "bold #9ece6a")
        self.query_one("#process", Static).update(said)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Stop it."""
        event.stop()
        self.post_message(self.Stop())


def ended(exit_code: int | None) -> str:
    """flmaster's exit code in words."""
    return _ENDS.get(exit_code or 0, f"ended with {exit_code}")


_ENDS = {
    0: "finished",
    1: "failed",
    2: "refused the input",
    3: "finished, but something could not be written",
    130: "stopped and saved",
    143: "stopped and saved",
}


__all__ = ["Dashboard", "RunPane", "ended"]
