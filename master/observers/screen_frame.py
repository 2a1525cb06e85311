"""Sections under each other in one frame, a title in each divider, exactly as wide and high as asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.text import Text

_EDGE = "grey42"


@dataclass(frozen=True)
class Section:
    """Content lines under a divider with a `title` on its left and a `note` on its right.

    `joint` is (column, character) where the divider meets a vertical line; where its title is, it has none.
    """

    title: Text
    lines: Sequence[Text]
    note: Text = field(default_factory=Text)
    joint: tuple[int, str] | None = None


def fit(text: Text, width: int, align: str = "left") -> Text:
    """`text` on exactly `width` cells: padded, or cut with an ellipsis."""
    fitted = text.copy()
    fitted.no_wrap = True
    fitted.truncate(width, overflow="ellipsis")
    missing = width - fitted.cell_len
    if missing > 0:
        if align == "right":
            fitted.pad_left(missing)
        else:
            fitted.pad_right(missing)
    return fitted


def spread(left: Text, right: Text, width: int) -> Text:
    """`left` and `right` at the two ends of a line; `right` gives way when both do not fit."""
    if left.cell_len + right.cell_len + 2 > width:
        return fit(left, width)
    return Text.assemble(fit(left, width - right.cell_len), right)


def beside(left: Sequence[Text], right: Sequence[Text], left_width: int, right_width: int) -> list[Text]:
    """Two columns with a line between them, as high as the higher one."""
    count = max(len(left), len(right))
    rows: list[Text] = []
    for index in range(count):
        first = left[index] if index < len(left) else Text()
        second = right[index] if index < len(right) else Text()
        rows.append(Text.assemble(fit(first, left_width), (" │ ", _EDGE), fit(second, right_width)))
    return rows


def frame(sections: Sequence[Section], footer: Text, width: int, height: int) -> Text:
    """The whole screen as one text of `height` lines of `width` cells. What is too much is cut at the end."""
    lines: list[Text] = []
    for number, section in enumerate(sections):
        ends = "╭╮" if number == 0 else "├┤"
        lines.append(_joined(_divider(ends, section.title, section.note, width), section.joint))
        lines.extend(Text.assemble(("│ ", _EDGE), fit(line, width - 4), (" │", _EDGE)) for line in section.lines)
    blank = Text.assemble(("│", _EDGE), " " * (width - 2), ("│", _EDGE))
    body = (lines + [blank] * (height - 1))[: height - 1]
    body.append(_divider("╰╯", footer, Text(), width))
    screen = Text("\n", no_wrap=True, overflow="crop", end="").join(fit(line, width) for line in body)
    screen.no_wrap, screen.overflow, screen.end = True, "crop", ""
    return screen


def _divider(ends: str, title: Text, note: Text, width: int) -> Text:
    inner = width - 2
    start = Text.assemble(("─ ", _EDGE), title, " ") if title.plain else Text()
    stop = Text.assemble(" ", note, (" ─", _EDGE)) if note.plain else Text()
    if start.cell_len + stop.cell_len > inner:
        stop = Text()
    if start.cell_len > inner:
        start = fit(start, inner)
    dashes = "─" * (inner - start.cell_len - stop.cell_len)
    return Text.assemble((ends[0], _EDGE), start, (dashes, _EDGE), stop, (ends[1], _EDGE))


def _joined(divider: Text, joint: tuple[int, str] | None) -> Text:
    if joint is None or divider.plain[joint[0]] != "─":
        return divider
    column, character = joint
    return Text.assemble(divider[:column], (character, _EDGE), divider[column + 1 :])
