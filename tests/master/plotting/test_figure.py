"""What matplotlib is made to draw: limits, zeros, names, fonts."""

from __future__ import annotations

import itertools
import re
import zlib
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from master.plotting.curves import Curve, Panel
from master.plotting.figure import Look, draw, save
from master.plotting.legend import spread
from master.plotting.style import COLOURS, RC


def line(label: str, y: list[float], x: list[float] | None = None, **more: object) -> Curve:
    """A curve of these numbers."""
    values = np.array(y, dtype=float)
    across = np.arange(len(y), dtype=float) if x is None else np.array(x, dtype=float)
    return Curve(label, across, values, np.arange(len(y)), runs=1, **more)  # type: ignore[arg-type]


def drawn(panels: list[Panel], rows: int = 1, **look: object) -> Figure:
    """The figure, laid out."""
    with matplotlib.rc_context(RC):
        figure = draw(panels, rows, Look(**look))  # type: ignore[arg-type]
        FigureCanvasAgg(figure).draw()
    return figure


def test_zeros_survive_a_log_axis() -> None:
    """They lie at the bottom, below every positive value, as triangles; the picture says so."""
    axes = drawn([Panel("round", "grad_norm", [line("a", [1.0, 1e-4, 1e-8, 0.0])])]).axes[0]
    assert axes.get_yscale() == "log"
    curve, triangles = axes.get_lines()
    at_zero = np.asarray(curve.get_ydata())[-1]
    assert 0 < at_zero < 1e-8
    assert axes.get_ylim()[0] < at_zero
    assert triangles.get_marker() == "v"
    assert triangles.get_xdata().tolist() == [3.0]
    assert [text.get_text() for text in axes.texts] == ["▽ at or below 0"]


def test_only_zeros_can_be_drawn_too() -> None:
    """Nothing positive at all: no error, whatever the axis."""
    for logy in (None, True, False):
        drawn([Panel("round", "grad_norm", [line("a", [0.0, 0.0])])], logy=logy)


def test_a_log_axis_is_chosen_where_values_span_decades() -> None:
    """And not for what is negative, or spans less; the user's word wins."""
    assert drawn([Panel("round", "f", [line("a", [1.0, 0.5])])]).axes[0].get_yscale() == "linear"
    assert drawn([Panel("round", "f", [line("a", [1.0, 1e-3, -1.0])])]).axes[0].get_yscale() == "linear"
    assert drawn([Panel("round", "f", [line("a", [1.0, 1e-3])])], logy=False).axes[0].get_yscale() == "linear"


def test_a_share_has_no_decades() -> None:
    """Accuracy begins near 0 and stays on a linear axis, as do its quantiles; the user's word wins."""
    for y in ("accuracy", "accuracy_top5", "client_accuracy_q10"):
        assert drawn([Panel("round", y, [line("a", [0.001, 0.9])])]).axes[0].get_yscale() == "linear"
    assert drawn([Panel("round", "accuracy", [line("a", [0.001, 0.9])])], logy=True).axes[0].get_yscale() == "log"


def test_zeros_beyond_the_limits_do_not_squeeze_the_axes() -> None:
    """The triangles stand for what is seen: those outside of --xlim are left out, and the axes keep their width."""
    zeros = line("a", [1.0, 1e-4, *[0.0] * 40], [*range(0, 4200, 100)])  # type: ignore[list-item]
    shown, free = (drawn([Panel("round", "grad_norm", [zeros])], **look).axes[0] for look in ({"xlim": (0, 300)}, {}))
    (triangles,) = (x for x in shown.get_lines() if x.get_marker() == "v")
    assert set(triangles.get_xdata()) <= {200.0, 300.0}
    assert shown.get_position().width == pytest.approx(free.get_position().width, abs=0.05)
    nothing = drawn([Panel("round", "grad_norm", [zeros])], xlim=(0, 100)).axes[0]
    assert nothing.get_position().height == pytest.approx(free.get_position().height, abs=0.05)


def test_a_long_name_of_an_axis_is_folded() -> None:
    """Two lines beside the axis, not one beyond its ends."""
    axes = drawn([Panel("round", "client_accuracy_q10", [line("a", [0.1, 0.9])])]).axes[0]
    assert axes.get_ylabel() == "client accuracy,\n10 % quantile"


def test_a_log_x_axis_leaves_out_the_origin() -> None:
    """x = 0 has no place there; nothing else is lost."""
    axes = drawn([Panel("bits_up", "f", [line("a", [3.0, 2.0, 1.0], [0, 10, 100])])], logx=True).axes[0]
    assert axes.get_lines()[0].get_xdata().tolist() == [10.0, 100.0]


def test_panels_of_one_metric_share_limits_and_colours() -> None:
    """So that they can be compared: the widest range, and one colour a label."""
    panels = [
        Panel("round", "grad_norm", [line("a", [1.0, 1e-6]), line("b", [1.0, 0.5])], "left"),
        Panel("round", "grad_norm", [line("b", [1.0, 1e-1])], "right"),
    ]
    left, right = drawn(panels).axes
    assert left.get_ylim() == right.get_ylim()
    assert right.get_ylim()[0] < 1e-6
    assert right.get_lines()[0].get_color() == COLOURS[1]
    assert (left.get_title("left"), right.get_title("left")) == ("left", "right")


def test_limits_follow_what_was_measured() -> None:
    """A theorem's line that falls below it does not stretch the axis."""
    panel = Panel("round", "grad_norm", [line("a", [1.0, 1e-2]), line("t", [1.0, 1e-30], kind="theory", beside="a")])
    assert drawn([panel]).axes[0].get_ylim()[0] > 1e-3


def test_many_theory_lines_are_told_once_in_the_colours_of_their_curves() -> None:
    """One note in place of a legend entry each; a single line keeps its name."""
    pairs = [line(name, y) for name, y in (("a", [1.0, 1e-2]), ("b", [1.0, 1e-3]))]
    lines = [line(f"{c.label} theorem", [1.0, 0.1], kind="theory", beside=c.label) for c in pairs]
    axes = drawn([Panel("round", "grad_norm", [*pairs, *lines])], legend="below").axes[0]
    assert [text.get_text() for text in axes.texts] == ["dotted: rate of the theorem"]
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == ["a", "b"]
    assert axes.get_lines()[3].get_color() == COLOURS[1]
    axes = drawn([Panel("round", "grad_norm", [*pairs, lines[1]])], legend="below").axes[0]
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == ["a", "b", "b theorem"]


def test_names_stand_at_the_ends_if_the_curves_end_together() -> None:
    """Else in one legend below; a single curve needs none."""
    together = Panel("round", "f", [line("a", [3.0, 1.0]), line("b", [3.0, 2.0])])
    assert {"a", "b"} <= {text.get_text() for text in drawn([together]).axes[0].texts}
    apart = Panel("bits_up", "f", [line("a", [3.0, 1.0], [0, 10]), line("b", [3.0, 2.0], [0, 100])])
    figure = drawn([apart])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    single = drawn([Panel("round", "f", [line("only", [3.0, 1.0])])])
    assert not single.legends
    assert single.axes[0].get_title("left") == "only"


def test_names_at_the_ends_do_not_overlap() -> None:
    """Nine curves that end within a hair are named one above the other, inside the figure."""
    panel = Panel("round", "f", [line(f"curve {k}", [3.0, 1.0 + 1e-3 * k]) for k in range(9)])
    figure = drawn([panel])
    boxes = []
    for text in figure.axes[0].texts:
        text.update_positions(figure.canvas.get_renderer())  # type: ignore[attr-defined]
        boxes.append(Text.get_window_extent(text))  # without its arrow
    assert len(boxes) == 9
    for a in range(9):
        for b in range(a):
            assert not boxes[a].overlaps(boxes[b])
    assert max(box.x1 for box in boxes) <= figure.bbox.x1


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8))
def test_spread_keeps_order_and_distance(wanted: list[float]) -> None:
    """Labels are at least a line apart, in the order of their curves, and stay put where there is room."""
    found = spread(wanted, 10.0, 0.0, 100.0)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    for a, b in itertools.pairwise(order):
        assert found[b] - found[a] >= 10.0 - 1e-9
    if len(wanted) == 1:
        assert found[0] == pytest.approx(wanted[0])


def test_counts_have_their_unit_in_the_label_once() -> None:
    """Ticks 0, 1, 2 and "Mbit" beside them, not "1000000"."""
    axes = drawn([Panel("bits_up", "f", [line("a", [3.0, 1.0], [0, 4e6])])]).axes[0]
    assert axes.get_xlabel() == "bits sent by clients (Mbit)"
    assert [tick.get_text() for tick in axes.get_xticklabels()][-3:-1] == ["3", "4"]


def test_many_curves_differ_in_colour_and_in_marker() -> None:
    """14 of them: 14 colours that can be told apart, and markers at places of their own; of 8, none."""
    many = [line(f"c{k}", [1.0 + k * t for t in range(100)]) for k in range(14)]
    lines = list(drawn([Panel("round", "f", many)]).axes[0].get_lines())
    colours = [np.array(to_rgb(each.get_color())) for each in lines]
    assert min(np.abs(a - b).max() for a, b in itertools.combinations(colours, 2)) > 0.1
    assert len({(each.get_marker(), str(each.get_color())) for each in lines}) == 14
    assert len({str(each.get_markevery()) for each in lines}) > 7
    few = drawn([Panel("round", "f", many[:8])]).axes[0].get_lines()
    assert {each.get_marker() for each in few} == {"None"}


def test_an_overlay_takes_the_colour_of_the_curve_it_belongs_to() -> None:
    """Open markers tell it apart; one without kin is ink."""
    panel = Panel("round", "f", [line("diana", [3.0, 1.0]), line("diana, published", [3.0, 2.0], kind="overlay"),
                                 line("other", [3.0, 2.5], kind="overlay")])  # fmt: skip
    lines = drawn([panel]).axes[0].get_lines()
    assert lines[1].get_color() == COLOURS[0]
    assert lines[1].get_markerfacecolor() == "white"
    assert lines[2].get_color() not in COLOURS


def test_a_pdf_keeps_its_text_as_truetype(tmp_path: Path) -> None:
    """Fonts are embedded as Type 42 (TrueType), never as Type 3, which journals refuse."""
    panel = Panel("round", "grad_norm", [line("a", [1.0, 1e-4]), line("b", [1.0, 0.0])])
    save([panel], 1, Look(title="a title"), tmp_path / "a.pdf")
    content = (tmp_path / "a.pdf").read_bytes()
    streams = b"".join(_inflated(part) for part in re.findall(rb"stream\r?\n(.*?)endstream", content, re.DOTALL))
    assert b"/FontFile2" in content + streams
    assert b"/Type3" not in content + streams


def test_png_and_svg_are_written(tmp_path: Path) -> None:
    """By the name's ending."""
    panel = Panel("round", "f", [line("a", [1.0, 2.0])])
    save([panel], 1, Look(), tmp_path / "a.png")
    save([panel], 1, Look(size=(2.0, 1.0)), tmp_path / "a.svg")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()


def _inflated(stream: bytes) -> bytes:
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return b""
