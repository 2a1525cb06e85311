"""One line of a form: the key, what edits its value, and what fits."""

from __future__ import annotations

from typing import Any

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.message import Message
from textual.widgets import Checkbox, Input, Label, Select, SelectionList
from textual.widgets.selection_list import Selection

from fl_core.options import MISSING
from master.workbench.draft import inline
from master.workbench.form import Field


class FormRow(Horizontal):
    """A field and its editor.

    Args:
        value: what the experiment says; None where it leaves the key out.
    """

    class Edited(Message):
        """The value is another one; None: left out. `text` is what was typed, to be read as TOML."""

        def __init__(self, field: Field, value: Any, text: str | None = None) -> None:
            super().__init__()
            self.field, self.value, self.text = field, value, text

    def __init__(self, field: Field, value: Any, about: str = "") -> None:
        super().__init__(classes="row plug-in" if field.is_plug_in else "row")
        self.field, self._value, self._about = field, value, about

    def compose(self) -> ComposeResult:
        """Key, editor, hint."""
        yield Label(self.field.key, classes="key")
        yield self._editor()
        said = self._about or self.field.hint
        hint = Label(said, classes="hint", markup=False)
        hint.tooltip = said  # where there is no room for it
        yield hint

    def mark(self, wrong: bool) -> None:
        """Show that the last check complained about it."""
        self.set_class(wrong, "wrong")

    @property
    def _editor_id(self) -> str:
        return "edit-" + self.field.path.replace(".", "-").replace("@", "launch-")

    @property
    def _shown(self) -> Any:
        """What holds: the value, or the default."""
        if self._value is not None:
            return self._value
        return None if self.field.default is MISSING else self.field.default

    def _editor(self) -> Any:
        field, editor_id = self.field, self._editor_id
        if field.many:
            chosen = set(self._shown or ())
            choices = [Selection(name, name, name in chosen) for name in field.choices]
            return SelectionList(*choices, id=editor_id, classes="editor")
        if field.choices:
            return self._select(editor_id)
        if field.is_switch:
            return Checkbox("", bool(self._shown), compact=True, id=editor_id, classes="editor")
        text = "" if self._value is None else self._value if isinstance(self._value, str) else inline(self._value)
        default = "" if field.default in (MISSING, None, "") else inline(field.default).strip('"')
        return Input(text, placeholder=default, id=editor_id, classes="editor")

    def _select(self, editor_id: str) -> Select[str]:
        shown = self._shown
        choices = [(name, name) for name in self.field.choices]
        if isinstance(shown, str) and shown in self.field.choices:
            blank = self.field.default in (MISSING, None)
            return Select(choices, value=shown, allow_blank=blank, prompt="–", id=editor_id, classes="editor")
        return Select(choices, prompt="–", id=editor_id, classes="editor")

    # --- what the user does ----------------------------------------------------------------------------------------

    def on_input_changed(self, event: Input.Changed) -> None:
        """Each key typed."""
        event.stop()
        if event.value != ("" if self._value is None else str(self._value)):
            self._value = event.value
            self.post_message(self.Edited(self.field, None, event.value))

    def on_select_changed(self, event: Select.Changed) -> None:
        """Another choice; the first event only tells of the choice that was there."""
        event.stop()
        value = event.value if isinstance(event.value, str) else None
        if value != self._shown:
            self._value = value
            self.post_message(self.Edited(self.field, value))

    def on_checkbox_changed(self, event: Checkbox.Changed) -> None:
        """On or off."""
        event.stop()
        if event.value != bool(self._shown):
            self._value = event.value
            self.post_message(self.Edited(self.field, event.value))

    def on_selection_list_selected_changed(self, event: SelectionList.SelectedChanged[str]) -> None:
        """In the order of the choices, whatever the order they were ticked in."""
        event.stop()
        value = [name for name in self.field.choices if name in event.selection_list.selected]
        if value != list(self._shown or ()):
            self._value = value
            self.post_message(self.Edited(self.field, value))


__all__ = ["FormRow"]
