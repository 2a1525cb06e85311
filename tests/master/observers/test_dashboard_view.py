"""The screen without a terminal: its size, its content, and that no worker vanishes."""

from __future__ import annotations

import functools
import io
import json
import re
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from master.events import KINDS, Event, Paused, RunFinished, Stopping, WaitingForWorkers, decode, encode
from master.observers.dashboard_state import State, fold
from master.observers.dashboard_view import summary, view

Teller = Callable[..., Iterator[Event]]


def folded(*events: Event, state: State | None = None) -> State:
    """The state after them."""
    return functools.reduce(fold, events, state if state is not None else State())


def screen(state: State, width: int = 80, height: int = 24, page: int = 0) -> list[str]:
    """The lines a terminal would show."""
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, record=True)
    console.print(view(state, width, height, page), end="")
    return console.export_text().split("\n")


def workers_on(lines: list[str]) -> list[str]:
    """Names of the workers that have a row."""
    return [match[1] for line in lines if (match := re.search(r"[│] (local|gpu\d+:7000) +(cpu|cuda|\d/)", line))]


def counted_in(lines: list[str]) -> int:
    """How many the visible "… more" line counts, where its states must add up."""
    for line in lines:
        if match := re.search(r"(?:… (\d+) more|(\d+) workers): ([^│]*)", line):
            return int(match[1] or match[2])
    return 0


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 16), (100, 30), (140, 30), (200, 50), (200, 24)])
@pytest.mark.parametrize("workers", [1, 8, 30, 200])
def test_the_screen_is_exactly_as_large_as_the_terminal(teller: Teller, workers: int, width: int, height: int) -> None:
    """Each line has the width, there are `height` of them, and each worker is shown or counted."""
    lines = screen(folded(*teller(workers, 7)), width, height)
    assert len(lines) == height
    assert {cell_len(line) for line in lines} == {width}
    assert len(workers_on(lines)) + counted_in(lines) == workers


def test_thirty_workers_at_80x24_are_shown_or_counted_on_every_page(teller: Teller) -> None:
    """The pages together show all of the 30; on each, the rest is counted."""
    state = folded(*teller(30, 62))
    seen: list[str] = []
    pages = int(next(match[1] for line in screen(state) if (match := re.search(r"page 1/(\d+)", line))))
    for page in range(pages):
        lines = screen(state, page=page)
        shown = workers_on(lines)
        assert shown
        assert len(shown) + counted_in(lines) == 30
        seen += shown
    assert set(seen) == set(state.workers)
    assert screen(state, page=pages) == screen(state)
    assert screen(state, page=-1) == screen(state, page=pages - 1)


def test_the_rest_is_counted_by_state(teller: Teller) -> None:
    """21 more: working, idle and lost add up."""
    more = next(line for line in screen(folded(*teller(30, 62))) if "… 21 more" in line)
    assert "13 working, 6 idle, 2 lost" in more
    assert "page 1/4, press ← →" in more


def test_what_matters_is_on_the_smallest_usual_screen(teller: Teller) -> None:
    """Name, progress, time left, tasks, curves, costs, workers, the last log line, keys."""
    text = "\n".join(screen(folded(*teller(30, 62))))
    for expected in (
        "digits-fedavg",
        "run 2/6",
        "scaffold, 10 % · digits · logistic · randk",
        "round 62/100",
        " 62% ",
        "ETA 38 s",
        "tasks 30/60",
        "loss_train    0.1557 █",
        "accuracy      0.9939 ▁",
        "grad_norm   0.001659 █",
        "up 1.29 Mbit   down 12.9 Mbit   oracle calls 11.2k",
        "workers 27 · 27/54 slots busy · 48.6 tasks/s · 3 lost",
        "worker gpu24:7000 lost: connection reset by peer",
        "q stop and save  p pause  ← → page",
    ):
        assert expected in text


def test_states_of_the_run_are_said(story: list[Event]) -> None:
    """Paused, waiting, stopping and the end are words on the screen."""
    state = folded(*story)
    assert " PAUSED " in screen(folded(Paused(time_s=0.0), state=state))[0]
    assert "p resume" in screen(folded(Paused(time_s=0.0), state=state))[-1]
    waiting = screen(folded(WaitingForWorkers(time_s=0.0, tasks=7), state=state))
    assert "no worker lives: 7 tasks wait for one" in waiting[3]
    assert " STOPPING " in screen(folded(Stopping(time_s=0.0, reason="q"), state=state))[0]
    over = RunFinished(time_s=0.0, run="scaffold-s1-9f2ac1", reason="failed", text="my.py:3", summary={})
    assert "failed  my.py:3" in screen(folded(over, state=state))[3]


def test_a_replayed_stream_gives_the_same_screen(teller: Teller) -> None:
    """Through JSON and back, the screen is equal to the last cell, styles included."""
    events = list(teller(30, 62))
    replayed = [decode(json.loads(json.dumps(encode(event)))) for event in events]
    assert view(folded(*replayed), 80, 24) == view(folded(*events), 80, 24)
    assert screen(folded(*replayed), 200, 50) == screen(folded(*events), 200, 50)


def test_hostile_names_cannot_leave_their_cell(teller: Teller) -> None:
    """Markup, escape codes and wide letters of a worker's name stay text in a frame that holds."""
    told = [encode(event) for event in teller(3, 2)]
    for stored in told:
        for key in ("name", "executor"):
            if stored.get(key) == "gpu1:7000":
                stored[key] = "\x1b[2J[red]機械機械機械機械\n"
    lines = screen(folded(*(decode(stored) for stored in told)))
    assert {cell_len(line) for line in lines} == {80}
    assert any("[2J[red]機" in line for line in lines)
    assert "\x1b" not in "".join(lines)


# few names, so that the events meet; times that a clock can show
FEW = {
    "time_s": st.floats(0, 4e9),
    "run": st.sampled_from("ab"),
    "name": st.sampled_from("cd"),
    "executor": st.sampled_from("cd"),
    "round": st.integers(0, 3),
    "metrics": st.dictionaries(st.sampled_from(["f", "accuracy", "round_s", "bits_up"]), st.floats() | st.integers()),
}
made = [st.builds(kind, **{n: s for n, s in FEW.items() if n in kind.__dataclass_fields__}) for kind in KINDS.values()]
event_lists = st.lists(st.one_of(made), max_size=30)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)
@given(event_lists, st.integers(1, 210), st.integers(1, 60), st.integers())
def test_any_stream_on_any_size_is_a_screen(events: list[Event], width: int, height: int, page: int) -> None:
    """No event, however odd its numbers, and no terminal, however small, breaks the view."""
    state = folded(*events)
    lines = view(state, width, height, page).plain.split("\n")
    assert len(lines) == max(height, 5)
    assert {cell_len(line) for line in lines} == {max(width, 24)}


def test_the_summary_stays_short_and_whole(story: list[Event]) -> None:
    """After the screen: the run, how it ended, its numbers and where they are."""
    over = RunFinished(time_s=1_700_000_060.0, run="scaffold-s1-9f2ac1", reason="finished", summary={"accuracy": 0.9})
    console = Console(file=io.StringIO(), width=100, record=True)
    console.print(summary(folded(*story, over), 100))
    text = console.export_text()
    assert re.search(r"^scaffold-s1-9f2ac1  finished +12/100 rounds in 1:00$", text, re.MULTILINE)
    assert "accuracy 0.9" in text
    assert "runs/digits-fedavg/scaffold-s1-9f2ac1" in text
