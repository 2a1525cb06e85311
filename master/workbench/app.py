"""The workbench: four tabs, and the flmaster that was launched here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Footer, Label, RichLog, TabbedContent, TabPane

from fl_core.experiment.schema import Experiment
from master.one_run import folder_of
from master.workbench import form
from master.workbench.analyse_pane import AnalysePane
from master.workbench.configure_pane import ConfigurePane
from master.workbench.draft import Draft
from master.workbench.launching import Launched, spelled
from master.workbench.run_pane import RunPane, ended

_READ_S = 0.25
_FIRST = {"configure": "#sections", "run": "#dashboard", "analyse": "#runs", "log": "#output"}
"""What has the focus when a tab comes up."""


class Leaving(ModalScreen[str]):
    """What becomes of the flmaster that still runs."""

    def compose(self) -> ComposeResult:
        """The question and its answers."""
        with Vertical(id="leaving"):
            yield Label("flmaster still runs.")
            yield Label("It can go on without the workbench: flctl watch shows it.", classes="hint")
            with Horizontal():
                yield Button("Leave it running", id="leave", variant="primary")
                yield Button("Stop and save", id="stop", variant="error")
                yield Button("Stay", id="stay")

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """The answer."""
        self.dismiss(event.button.id)


class Workbench(App[None]):
    """`flctl ui`.

    Args:
        draft: what is edited first.
        runs_dir: where run folders are made and looked for.
    """

    TITLE = "flspan"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]  # noqa: RUF012  as Textual has it
    CSS_PATH = "workbench.tcss"
    BINDINGS = [  # noqa: RUF012  Textual's own way to declare keys
        Binding("f1", "show('configure')", "configure", show=False),
        Binding("f2", "show('run')", "run", show=False),
        Binding("f3", "show('analyse')", "analyse", show=False),
        Binding("f4", "show('log')", "log", show=False),
        Binding("f5", "launch", "launch", priority=True),
        Binding("ctrl+s", "save", "save", priority=True),
        Binding("ctrl+y", "copy", "copy command", priority=True),
        Binding("ctrl+q", "leave", "quit", priority=True),
    ]

    def __init__(self, draft: Draft, runs_dir: Path) -> None:
        super().__init__()
        self._draft, self._runs_dir = draft, runs_dir
        self.launched: Launched | None = None
        self.copied = ""

    def compose(self) -> ComposeResult:
        """The tabs."""
        with TabbedContent(initial="configure"):
            with TabPane("Configure  F1", id="configure"):
                yield ConfigurePane(self._draft, self._runs_dir)
            with TabPane("Run  F2", id="run"):
                yield RunPane()
            with TabPane("Analyse  F3", id="analyse"):
                yield AnalysePane(self._runs_dir)
            with TabPane("Log  F4", id="log"):
                yield RichLog(id="output", max_lines=10_000)
        yield Footer()

    def on_mount(self) -> None:
        """Colours, and the clock that reads flmaster's output."""
        self.theme = "tokyo-night"
        self.set_interval(_READ_S, self.read_output)
        self.run_worker(form.import_all, thread=True)

    @property
    def configure(self) -> ConfigurePane:
        """The first tab."""
        return self.query_one(ConfigurePane)

    def action_show(self, tab: str) -> None:
        """Another tab."""
        self.set_focus(None)  # what has the focus would call its own tab back
        self.query_one(TabbedContent).active = tab

    def on_tabbed_content_tab_activated(self, event: TabbedContent.TabActivated) -> None:
        """What a tab shows is fresh when it comes up, and its keys work at once."""
        tab = event.pane.id or ""
        if tab == "analyse":
            self.query_one(AnalysePane).action_reload()
        self.query_one(_FIRST[tab]).focus()

    # --- the experiment ----------------------------------------------------------------------------------------------

    def on_configure_pane_asked(self, event: ConfigurePane.Asked) -> None:
        """A button of the first tab."""
        self.run_worker(
            {"launch": self.action_launch, "save": self.action_save, "copy": self.action_copy}[event.what]()
        )

    async def action_save(self) -> None:
        """Write the experiment file."""
        try:
            path = self.configure.draft.save()
        except OSError as error:
            self.notify(str(error), severity="error", markup=False)
            return
        self.configure.refresh_verdict()
        self.notify(str(path), title="saved", markup=False)

    async def action_copy(self) -> None:
        """The equivalent command line, to the clipboard; what it could not carry is saved first."""
        if not self.configure.verdict.error and self._keep():
            self._copy(spelled(self.configure.command))

    def _keep(self) -> bool:
        """A file that the command line can name. False: it cannot be written."""
        try:
            saved = self.configure.draft.keep()
        except OSError as error:
            self.notify(str(error), severity="error", markup=False)
            return False
        if saved is not None:
            self.configure.refresh_verdict()
            self.notify(str(saved), title="saved", markup=False)
        return True

    def _copy(self, command: str) -> None:
        self.copied = command
        self.copy_to_clipboard(command)
        self.notify(command, title="copied", markup=False)

    def on_analyse_pane_copy(self, event: AnalysePane.Copy) -> None:
        """Of a stored run."""
        self._copy(event.command)

    def on_analyse_pane_watch(self, event: AnalysePane.Watch) -> None:
        """A stored run, in the Run tab."""
        self.query_one(RunPane).watch_runs(lambda: event.folders)
        self.action_show("run")

    # --- flmaster ----------------------------------------------------------------------------------------------------

    async def action_launch(self) -> None:
        """Run the experiment as it stands; what no command line could carry is saved first."""
        pane = self.configure
        pane.refresh_verdict()
        if pane.verdict.error:
            self.notify(pane.verdict.error, severity="error", markup=False)
            return
        if self.launched is not None and self.launched.is_running:
            self.notify("one flmaster runs already: stop it first, or start this one in a shell", severity="warning")
            return
        if not self._keep():
            return
        try:
            self.launched = Launched.start(pane.command, self._runs_dir)
        except OSError as error:
            self.notify(str(error), severity="error", markup=False)
            return
        self.query_one("#output", RichLog).write(Text(f"$ {spelled(self.launched.command)}", style="bold #7aa2f7"))
        self.query_one(RunPane).watch_runs(_folders(pane.verdict.experiments, self._runs_dir), self.launched)
        self.action_show("run")

    def on_run_pane_stop(self) -> None:
        """Everything is saved; the same launch goes on from there."""
        if self.launched is not None:
            self.launched.stop()

    def read_output(self) -> None:
        """What flmaster has said since, and how it ended."""
        launched = self.launched
        if launched is None or launched.is_told:
            return
        output = self.query_one("#output", RichLog)
        has_ended = not launched.is_running  # asked first: nothing comes after
        for line in launched.new_lines():
            output.write(Text(line, style=_style(line)))
        if has_ended:
            launched.is_told = True
            output.write(Text(f"flmaster {ended(launched.exit_code)}", style="bold"))
            severity = "information" if launched.exit_code == 0 else "warning"
            self.notify(f"flmaster {ended(launched.exit_code)}", severity=severity)  # type: ignore[arg-type]

    async def action_leave(self) -> None:
        """Quit; ask first what becomes of a flmaster that runs."""
        if self.launched is None or not self.launched.is_running:
            self.exit()
            return
        self.push_screen(Leaving(), self._leave)

    async def _leave(self, answer: str | None) -> None:
        if answer == "stop" and self.launched is not None:
            self.launched.stop()
            await self.launched.wait()
        if answer in ("stop", "leave"):
            self.exit()


def _style(line: str) -> str:
    """A round is one of many; what is not a round should be seen."""
    if line.startswith("round "):
        return "grey66"
    return "#f7768e" if "failed" in line or line.startswith(("flmaster:", "Traceback")) else "#c0caf5"


def _folders(experiments: Sequence[Experiment], runs_dir: Path) -> Callable[[], list[Path]]:
    """Lists the run folders that are there by now."""
    paths = [folder_of(experiment, runs_dir).path for experiment in experiments]
    return lambda: [path for path in paths if path.is_dir()]


__all__ = ["Workbench"]
