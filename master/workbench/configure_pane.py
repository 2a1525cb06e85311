"""The Configure tab: the pages on the left, the form of one of them, and the file it makes on the right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.message import Message
from textual.widgets import Button, Label, OptionList, Static
from textual.widgets.option_list import Option

from fl_core.errors import InputError
from master.workbench import form, launching
from master.workbench.draft import Draft, Verdict
from master.workbench.form import PLUG_INS, Field, Section
from master.workbench.form_row import FormRow

LAUNCH = "@launch"
_LAUNCH = Section(LAUNCH, "launch", "How to run it: flmaster's options. None of them changes a number.")


class ConfigurePane(Vertical):
    """Edits a draft.

    Attributes:
        draft: what is being edited.
        chosen: flmaster's options that differ from their defaults, by name.
        verdict: of the last check.
    """

    class Asked(Message):
        """A button: "launch", "save" or "copy"."""

        def __init__(self, what: str) -> None:
            super().__init__()
            self.what = what

    def __init__(self, draft: Draft, runs_dir: Path) -> None:
        super().__init__(id="configure-pane")
        self.draft, self.runs_dir = draft, runs_dir
        self.chosen: dict[str, Any] = {}
        self.verdict = draft.check()
        self._sections = [*form.sections(), _LAUNCH]
        self._section = self._sections[0]
        self._options: dict[str, set[str]] = {}  # plug-in's table -> keys that are its own

    def compose(self) -> ComposeResult:
        """Pages, form, preview; the verdict and the buttons under them."""
        with Horizontal(id="editing"):
            yield OptionList(*(Option(section.title, id=section.title) for section in self._sections), id="sections")
            yield VerticalScroll(id="form")
            with VerticalScroll(id="preview"):
                yield Static(id="toml")
        with Horizontal(id="verdict-bar"):
            yield Static(id="verdict")
            yield Button("Save", id="save")
            yield Button("Copy command", id="copy")
            yield Button("Launch", id="launch", variant="success")
        yield Static(id="command")

    async def on_mount(self) -> None:
        """The first page."""
        self.query_one("#sections", OptionList).highlighted = 0
        await self.show_section(self._section.title)
        self._judge()

    @property
    def command(self) -> list[str]:
        """The command line that runs the draft as it is."""
        return launching.words(self.draft, self.chosen, self.runs_dir)

    async def open(self, draft: Draft) -> None:
        """Edit another experiment."""
        self.draft = draft
        await self.show_section(self._section.title)
        self._judge()

    async def show_section(self, title: str) -> None:
        """The form of that page."""
        self._section = next(section for section in self._sections if section.title == title)
        rows = [FormRow(field, self._value(field), self._about(field)) for field in self._fields()]
        area = self.query_one("#form", VerticalScroll)
        async with self.batch():
            await area.remove_children()
            await area.mount(
                Label(self._section.title, classes="title"),
                Label(self._section.about, classes="about", markup=False),
                *rows,
            )
        area.scroll_home(animate=False)
        self._mark()

    def refresh_verdict(self) -> None:
        """Say again what flmaster would say: the file was saved, or another one is edited."""
        self._judge()

    # --- parts -------------------------------------------------------------------------------------------------------

    def _fields(self) -> list[Field]:
        if self._section.name == LAUNCH:
            return [_launch_field(option) for option in launching.options()]
        found = form.fields(self._section.name, self.draft.tables, self.draft.sources())
        self._options = {}
        for field in found:
            if not field.is_plug_in and field.table in PLUG_INS and _is_option(field):
                self._options.setdefault(field.table, set()).add(field.path.rpartition(".")[2])
        return found

    def _value(self, field: Field) -> Any:
        if field.path.startswith("@"):
            return self.chosen.get(field.path[1:])
        if field.is_plug_in:
            return form.chosen_plug_in(field.table, self.draft.tables)
        return self.draft.get(field.path)

    def _about(self, field: Field) -> str:
        if not field.is_plug_in:
            return ""
        name = form.chosen_plug_in(field.table, self.draft.tables)
        return form.about(PLUG_INS[field.table], name) if name else "not chosen"

    async def on_form_row_edited(self, event: FormRow.Edited) -> None:
        """Into the draft, and the verdict on it."""
        event.stop()
        field = event.field
        try:
            if field.path.startswith("@"):
                self.chosen[field.path[1:]] = event.value if event.text is None else event.text.strip()
            elif field.is_plug_in:
                self.draft.choose(field.table, event.value, self._options.get(field.table, set()))
                await self.show_section(self._section.title)
            else:
                self._name_table(field.table)
                if event.text is None:
                    self.draft.put(field.path, event.value)
                else:
                    self.draft.put_text(field.path, event.text)
        except InputError as error:
            self._say(Verdict([], str(error), field.path))
            return
        self._judge()

    def _name_table(self, table: str) -> None:
        """An option needs the plug-in that it belongs to, where this was left to the default."""
        if table in PLUG_INS and self.draft.get(f"{table}.name") is None and (name := form.default_plug_in(table)):
            for key, value in {"name": name, **form.default_options(table)}.items():
                self.draft.put(f"{table}.{key}", value)

    def _judge(self) -> None:
        self._say(self.draft.check())

    def _say(self, verdict: Verdict) -> None:
        self.verdict = verdict
        said = Text()
        if verdict.error:
            said.append(" ✗ ", "bold #f7768e").append(verdict.error, "#f7768e")
        else:
            count = len(verdict.experiments)
            said.append(" ✓ ", "bold #9ece6a").append(f"{count} {'run' if count == 1 else 'runs'}", "#9ece6a")
            said.append(f" · {self.draft.path or 'not saved'}", "grey62")
            said.append(" · changed" if self.draft.is_changed and self.draft.path else "", "#e0af68")
        self.query_one("#verdict", Static).update(said)
        self.query_one("#launch", Button).disabled = bool(verdict.error)
        self.query_one("#toml", Static).update(highlighted(self.draft.toml()))
        command = Text.assemble(("$ ", "bold #7aa2f7"), (launching.spelled(self.command), "grey78"))
        self.query_one("#command", Static).update(command)
        self._mark()

    def _mark(self) -> None:
        wrong = self.verdict.path
        for row in self.query(FormRow):
            row.mark(bool(wrong) and wrong == row.field.path)
        pages = self.query_one("#sections", OptionList)
        for index, section in enumerate(self._sections):
            prompt = self._prompt(section)
            if pages.get_option_at_index(index).prompt != prompt:
                pages.replace_option_prompt_at_index(index, prompt)

    def _prompt(self, section: Section) -> Text:
        """The page's name; a dot says that the file speaks of it, a cross that something there is wrong."""
        wrong, above = self.verdict.path.partition(".")[0], not section.name
        names = {other.name for other in self._sections}
        if self.verdict.error and (wrong == section.name or (above and wrong not in names)):
            return Text.assemble(("✗ ", "bold #f7768e"), section.title)
        speaks = bool(self.chosen) if section.name == LAUNCH else above or section.name in self.draft.tables
        return Text.assemble(("• " if speaks else "  ", "#7aa2f7"), section.title)

    # --- what the user does ------------------------------------------------------------------------------------------

    async def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        """Another page."""
        if event.option.id is not None and event.option.id != self._section.title:
            await self.show_section(event.option.id)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """The application does it: it knows the other tabs."""
        event.stop()
        self.post_message(self.Asked(event.button.id or ""))


def highlighted(toml: str) -> Text:
    """TOML in the colours of the form, on whatever lies behind it."""
    text = Text(toml)
    text.highlight_regex(r"(?m)^[\w.\-\"]+(?= =)", "#7dcfff")
    text.highlight_regex(r"(?<== )[-+\d.][\w.+\-]*", "#ff9e64")
    text.highlight_regex(r"(?<== )(true|false)", "#bb9af7")
    text.highlight_regex(r'(?m)(?<== )"[^"\n]*"|^ +"[^"\n]*"', "#9ece6a")
    text.highlight_regex(r"(?m)^\[\[?[^\]\n]+\]\]?$", "bold #bb9af7")
    return text


def _is_option(field: Field) -> bool:
    """Whether it belongs to the plug-in and not to the table that names it, as `loss` does to [model]."""
    return field.table not in ("data", "model") or field.path not in _OF_TABLE


_OF_TABLE = ("data.partition", "model.loss", "model.regularizer", "model.dtype")


def _launch_field(option: Any) -> Field:
    default = option.default if isinstance(option.default, str | int | bool) else (False if option.is_flag else None)
    help_text = (option.help or "").partition("  [")[0]
    return Field(f"@{option.name}", bool if option.is_flag else str, default, help=help_text)


__all__ = ["ConfigurePane"]
