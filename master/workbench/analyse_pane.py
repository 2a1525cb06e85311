"""The Analyse tab: the table of runs, any metric against any other, and the same figure as a PDF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Button, Checkbox, DataTable, Input, Select, Static

from fl_core.errors import InputError
from master.flctl.commands.command import again
from master.flctl.commands.plot import PlotOptions
from master.flctl.conditions import selected
from master.flctl.finding import all_runs
from master.flctl.stored_run import StoredRun
from master.observers.dashboard_metrics import CURVES
from master.observers.units import number
from master.plotting.composing import compose
from master.plotting.curves import Panel, spans_decades
from master.plotting.table import figure_csv
from master.runs import write_whole
from master.workbench.launching import spelled
from master.workbench.terminal_chart import COLOURS, Line, chart

_METRICS = ("f", "grad_norm", "distance", "loss", "accuracy", "bits_up")
_STATUS = {"finished": "#9ece6a", "running": "#7aa2f7", "failed": "#f7768e"}


class Chart(Widget):
    """Curves as large as there is room, and which is which."""

    def __init__(self) -> None:
        super().__init__(id="chart")
        self.panel: Panel | None = None
        self.said = "mark runs with space"
        self.logx = self.logy = False

    def render(self) -> Text:
        """The curves of the panel."""
        if self.panel is None:
            return Text(self.said, style="grey62")
        lines = [Line(curve.label, list(curve.x), list(curve.y)) for curve in self.panel.curves]
        legend = self._legend(lines)
        title = Text.assemble((self.panel.y, "bold"), ("  against ", "grey62"), (self.panel.x, "bold"))
        room = self.size.height - len(legend) - 1
        drawn = chart(lines, self.size.width, room, self.logx, self.logy)
        return Text("\n").join([title, drawn, *legend])

    def _legend(self, lines: Sequence[Line]) -> list[Text]:
        most = max(1, self.size.height // 4)
        found = []
        for index, line in enumerate(lines[:most]):
            found.append(
                Text.assemble(
                    ("━━ ", COLOURS[index % len(COLOURS)]),
                    line.label,
                    (f"  {number(float(line.y[-1]))}" if len(line.y) else "", "grey62"),
                    no_wrap=True,
                    overflow="ellipsis",
                )
            )
        if len(lines) > most:
            found.append(Text(f"   and {len(lines) - most} more", style="grey62"))
        return found


class AnalysePane(Vertical):
    """Runs of a folder, some of them marked and drawn."""

    BINDINGS = [  # noqa: RUF012  Textual's own way to declare keys
        Binding("space", "mark", "mark"),
        Binding("a", "mark_all", "mark all"),
        Binding("w", "watch", "watch"),
        Binding("c", "copy", "copy command"),
        Binding("r", "reload", "reload"),
    ]

    class Watch(Message):
        """These runs are to be shown in the Run tab."""

        def __init__(self, folders: list[Path]) -> None:
            super().__init__()
            self.folders = folders

    class Copy(Message):
        """This command line is wanted."""

        def __init__(self, command: str) -> None:
            super().__init__()
            self.command = command

    def __init__(self, runs_dir: Path) -> None:
        super().__init__(id="analyse-pane")
        self.runs_dir = runs_dir
        self.runs: list[StoredRun] = []
        self.marked: set[str] = set()

    def compose(self) -> ComposeResult:
        """The table, the chart, and what is drawn."""
        with Horizontal(id="analysing"):
            with Vertical(id="table-side"):
                yield Input(placeholder="algorithm.name=diana grad_norm<1e-3", id="where")
                yield DataTable(id="runs", cursor_type="row", zebra_stripes=True)
            with Vertical(id="chart-side"):
                with Horizontal(id="axes"):
                    yield Select[str]([], prompt="y", id="y")
                    yield Select[str]([], prompt="x", id="x")
                    yield Checkbox("log x", id="logx", compact=True)
                    yield Checkbox("log y", id="logy", compact=True)
                yield Chart()
        with Horizontal(id="export-bar"):
            yield Static("", id="plot-command")
            yield Input("figure.pdf", id="output")
            yield Button("Export", id="export", variant="primary")

    def on_mount(self) -> None:
        """The runs that are there."""
        self.action_reload()

    # --- runs --------------------------------------------------------------------------------------------------------

    def action_reload(self) -> None:
        """Read the runs again."""
        found = all_runs(self.runs_dir) if self.runs_dir.is_dir() else []
        where = self.query_one("#where", Input)
        try:
            self.runs = selected(found, where.value.split())
            where.remove_class("wrong")
        except InputError as error:  # while a condition is being typed
            where.add_class("wrong")
            where.tooltip = str(error)
            self.runs = found
        self._fill()
        self._fill_axes()
        self._draw()

    def _fill(self) -> None:
        table: DataTable[Any] = self.query_one("#runs", DataTable)
        row = table.cursor_row
        table.clear(columns=True)
        measured = [name for name in _METRICS if any(name in run.last for run in self.runs)]
        table.add_columns("", "run", "status", "round", *measured)
        for run in self.runs:
            table.add_row(*self._cells(run, measured), key=str(run.path))
        table.move_cursor(row=min(row, max(0, len(self.runs) - 1)))

    def _cells(self, run: StoredRun, measured: Sequence[str]) -> list[Any]:
        mark = Text("●" if str(run.path) in self.marked else "·", style="#7aa2f7")
        status = Text(run.status, style=_STATUS.get(run.status, "#e0af68"))
        rounds = f"{run.rounds}/{run.settings.get('rounds')}"
        values = [run.last.get(name) for name in measured]
        return [mark, run.name, status, rounds, *("" if value is None else number(value) for value in values)]

    def _fill_axes(self) -> None:
        measured = list(dict.fromkeys(name for run in self.runs for name in run.last))
        for which, usual in (("y", CURVES), ("x", ("round",))):
            select: Select[str] = self.query_one(f"#{which}", Select)
            before = select.value
            names = ["round", *measured] if measured else []
            with select.prevent(Select.Changed):
                select.set_options([(name, name) for name in names])
                if before in names:
                    select.value = before
                elif names:
                    select.value = next((name for name in usual if name in names), names[-1])

    # --- the figure --------------------------------------------------------------------------------------------------

    @property
    def chosen(self) -> list[StoredRun]:
        """The runs that are marked and have measured something."""
        return [run for run in self.runs if str(run.path) in self.marked and run.records]

    def _axis(self, which: str) -> str:
        value = self.query_one(f"#{which}", Select).value
        return value if isinstance(value, str) else "round"

    def _composed(self) -> tuple[list[Panel], int]:
        options = PlotOptions(
            x=self._axis("x"), y=(self._axis("y"),), group=(), by=None, label=None, order=None, band="std",
            subtract=None, theory=False, overlay=(), overlay_x_scale=1.0, data_root=None, title="",
            logx=self._is_log("x"), logy=self._is_log("y"), legend="auto", size=None, xlim=None, ylim=None,
        )  # fmt: skip
        panels, rows, _ = compose(self.chosen, options)
        return panels, rows

    def _is_log(self, which: str) -> bool:
        return self.query_one(f"#log{which}", Checkbox).value

    def _draw(self) -> None:
        figure = self.query_one(Chart)
        figure.panel, figure.said = None, "mark runs with space" if self.runs else f"no runs in {self.runs_dir}"
        if self.chosen:
            try:
                figure.panel = self._composed()[0][0]
            except InputError as error:
                figure.said = str(error)
        figure.logx, figure.logy = self._is_log("x"), self._is_log("y")
        figure.refresh()
        self.query_one("#plot-command", Static).update(
            Text.assemble(("$ ", "bold #7aa2f7"), (spelled(self.plot_command()), "grey78"))
        )

    def plot_command(self) -> list[str]:
        """The `flctl plot` that draws the same."""
        folders = [str(run.path) for run in self.chosen]
        logs = ["--logx"] if self._is_log("x") else []
        logs += ["--logy" if self._is_log("y") else "--no-logy"]
        output = self.query_one("#output", Input).value
        return ["flctl", "plot", *folders, "-x", self._axis("x"), "-y", self._axis("y"), *logs, "-o", output]

    def export(self) -> Path:
        """Write the figure and its numbers. InputError: the name is no picture's, nothing is marked, no matplotlib."""
        output = Path(self.query_one("#output", Input).value.strip())
        if output.suffix.lower() not in (".pdf", ".png", ".svg"):
            raise InputError(f"{output}: the name must end in .pdf, .png or .svg")
        if not self.chosen:
            raise InputError("mark the runs to draw with space first")
        try:
            from master.plotting.figure import Look, save
        except ImportError:
            raise InputError("figures need matplotlib: pip install 'flspan[plot]'") from None
        panels, rows = self._composed()
        save(panels, rows, Look(logx=self._is_log("x"), logy=self._is_log("y")), output)
        write_whole(output.with_suffix(".csv").absolute(), figure_csv(panels).encode())
        return output

    # --- what the user does ------------------------------------------------------------------------------------------

    def _under_cursor(self) -> StoredRun | None:
        row = self.query_one("#runs", DataTable).cursor_row
        return self.runs[row] if 0 <= row < len(self.runs) else None

    def action_mark(self) -> None:
        """Draw the run under the cursor, or no more."""
        if (run := self._under_cursor()) is not None:
            self.marked ^= {str(run.path)}
            self._marks_changed()

    def action_mark_all(self) -> None:
        """All that are listed; a second time, none."""
        paths = {str(run.path) for run in self.runs}
        self.marked = set() if paths <= self.marked else self.marked | paths
        self._marks_changed()

    def _marks_changed(self) -> None:
        if self.chosen and (panel := self._first_panel()) is not None:
            self.query_one("#logy", Checkbox).value = spans_decades(panel.curves)
        self._fill()
        self._draw()

    def _first_panel(self) -> Panel | None:
        try:
            return self._composed()[0][0]
        except InputError:
            return None

    def action_watch(self) -> None:
        """In the Run tab."""
        if (run := self._under_cursor()) is not None:
            self.post_message(self.Watch([run.path]))

    def action_copy(self) -> None:
        """The command line that reproduces the run."""
        if (run := self._under_cursor()) is not None:
            self.post_message(self.Copy(spelled(again(run, "reproduced"))))

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Enter, or a click."""
        event.stop()
        self.action_mark()

    def on_select_changed(self, event: Select.Changed) -> None:
        """Another axis: decades for what spans them."""
        event.stop()
        self._marks_changed()

    def on_checkbox_changed(self, event: Checkbox.Changed) -> None:
        """A log axis."""
        event.stop()
        self._draw()

    def on_input_changed(self, event: Input.Changed) -> None:
        """The condition, or the name of the file."""
        event.stop()
        if event.input.id == "where":
            self.action_reload()
        else:
            self._draw()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Export."""
        event.stop()
        try:
            output = self.export()
        except (InputError, OSError) as error:
            self.notify(str(error), severity="error", markup=False)
        else:
            self.notify(f"{output} and {output.with_suffix('.csv').name}", title="written", markup=False)


__all__ = ["AnalysePane", "Chart"]
