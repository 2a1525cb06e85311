"""Sections under each other in one frame, a title in each divider, exactly as wide and high as asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.text import Text

_EDGE = "grey42"


@dataclass(frozen=True)
class Section:
    """Content lines under a divider with a `title` on its left and a `note` on its right.

    `meets` is the column of a vertical line that ends at the frame's lower edge, if this is the last section.
    """

    title: Text
    lines: Sequence[Text]
    note: Text = field(default_factory=Text)
    meets: int | None = None


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


def bar(done: float, total: float, width: int, style: str) -> Text:
    """A line of `width` cells, coloured up to done / total."""
    halves = int(2 * width * min(1.0, max(0.0, done / total))) if total > 0 else 0
    full, half = divmod(halves, 2)
    rest = width - full - half
    return Text.assemble(("━" * full + "╸" * half, style), ("━" * rest, "grey30"))


def spread(left: Text, right: Text, width: int) -> Text:
    """`left` and `right` at the two ends of a line; `right` gives way when both do not fit."""
    if left.cell_len + right.cell_len + 2 > width:
        return fit(left, width)
    return Text.assemble(fit(left, width - right.cell_len), right)


def beside(
    left: Sequence[Text],
    right: Sequence[Text],
    left_width: int,
    right_width: int,
    height: int,
    dividers: Mapping[int, tuple[Text, Text]],
) -> list[Text]:
    """Two columns with a line between them. `dividers`: title and note of one before that line of the right column."""
    told: list[Text | tuple[Text, Text]] = []
    for index in range(len(right) + 1):
        told += [dividers[index]] if index in dividers else []
        told += [right[index]] if index < len(right) else []
    rows: list[Text] = []
    for index in range(height):
        first = fit(left[index] if index < len(left) else Text(), left_width)
        second = told[index] if index < len(told) else Text()
        if isinstance(second, Text):
            rows.append(Text.assemble(first, (" │ ", _EDGE), fit(second, right_width)))
        else:
            rows.append(Text.assemble(first, " ", _divider("├─", *second, right_width + 2)))
    return rows


def frame(sections: Sequence[Section], footer: Text, width: int, height: int) -> Text:
    """The whole screen as one text of `height` lines of `width` cells. What is too much is cut at the end."""
    lines: list[Text] = []
    for number, section in enumerate(sections):
        ends = "╭╮" if number == 0 else "├┤"
        lines.append(_divider(ends, section.title, section.note, width))
        lines.extend(_framed(line, width) for line in section.lines)
    blank = Text.assemble(("│", _EDGE), " " * (width - 2), ("│", _EDGE))
    body = (lines + [blank] * (height - 1))[: height - 1]
    bottom = _divider("╰╯", footer, Text(), width)
    body.append(_met(bottom, sections[-1].meets) if sections else bottom)
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


def _framed(line: Text, width: int) -> Text:
    """The line between the frame's sides; a divider in it runs into the right one."""
    end = "─┤" if line.cell_len == width - 4 and line.plain.endswith("─") else " │"
    return Text.assemble(("│ ", _EDGE), fit(line, width - 4), (end, _EDGE))


def _met(divider: Text, column: int | None) -> Text:
    if column is None or divider.plain[column] != "─":
        return divider
    return Text.assemble(divider[:column], ("┴", _EDGE), divider[column + 1 :])
