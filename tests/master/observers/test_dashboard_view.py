"""The screen without a terminal: its size, its content, and that no worker vanishes."""

from __future__ import annotations

import functools
import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from master.events import (
    KINDS,
    Evaluated,
    Event,
    Noted,
    Paused,
    RunFinished,
    RunStarted,
    Stopping,
    WaitingForWorkers,
    WorkerStatus,
    decode,
    encode,
)
from master.observers.dashboard_state import State, fold
from master.observers.dashboard_view import summary, view

Teller = Callable[..., Iterator[Event]]


def folded(*events: Event, state: State | None = None) -> State:
    """The state after them."""
    return functools.reduce(fold, events, state if state is not None else State())


def screen(state: State, width: int = 80, height: int = 24, page: int = 0, chosen: int = 0) -> list[str]:
    """The lines a terminal would show."""
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, record=True)
    console.print(view(state, width, height, page, chosen), end="")
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
made = [st.builds(kind, **{n: s for n, s in FEW.items() if n in kind.__struct_fields__}) for kind in KINDS.values()]
event_lists = st.lists(st.one_of(made), max_size=30)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)
@given(event_lists, st.integers(1, 210), st.integers(1, 60), st.integers(), st.integers())
def test_any_stream_on_any_size_is_a_screen(
    events: list[Event], width: int, height: int, page: int, chosen: int
) -> None:
    """No event, however odd its numbers, and no terminal, however small, breaks the view."""
    state = folded(*events)
    lines = view(state, width, height, page, chosen).plain.split("\n")
    assert len(lines) == max(height, 5)
    assert {cell_len(line) for line in lines} == {max(width, 24)}


def under_way(story: list[Event], count: int) -> State:
    """The story told of several runs at once: run 2, 3, … of 6, each with a name of its own."""
    state = State()
    for number in range(count):
        for event in story:
            changed: dict[str, Any] = {"run": f"r{number}-s1-0"} if hasattr(event, "run") else {}
            if isinstance(event, RunStarted):
                changed |= {"position": 2 + number, "label": f"method {number}", "algorithm": "method"}
            state = fold(state, msgspec.structs.replace(event, **changed))
    return state


def test_several_runs_under_way_have_a_line_each(story: list[Event]) -> None:
    """With progress and a metric; the shown one is marked, and another can be chosen, round and round."""
    state = under_way(story, 3)
    lines = screen(state, 120, 40)
    assert any("runs 3 under way" in line for line in lines)
    listed = [line for line in lines if re.search(r"method \d  seed 1", line)]
    assert len(listed) == 3
    assert all("12/100" in line and "grad_norm 0.8595" in line for line in listed)
    assert "▸ method 2" in listed[2]
    assert "↑ ↓ run" in lines[-1]
    assert "method 2 · digits" in lines[1]
    assert "method 1 · digits" in screen(state, 120, 40, chosen=-1)[1]
    assert screen(state, 120, 40, chosen=3) == lines
    over = RunFinished(time_s=1_700_000_060.0, run="r2-s1-0", reason="failed", summary={})
    assert "▸ method 1" in "\n".join(screen(fold(state, over), 120, 40))
    crowd = screen(under_way(story, 40), 120, 40)
    assert any("… 33 more" in line for line in crowd)
    assert {cell_len(line) for line in crowd} == {120}


def test_a_sweep_has_a_line_of_its_own_on_a_high_screen(story: list[Event]) -> None:
    """Runs done, the share of all rounds, the time left at this pace, and how the finished ones ended."""
    state = under_way(story, 2)
    line = next(line for line in screen(state, 120, 40) if "runs 1/6" in line)
    assert " 20%" in line  # one before, and two at 12 %
    over = RunFinished(time_s=1_700_000_060.0, run="r0-s1-0", reason="failed", summary={})
    assert "1 failed" in next(line for line in screen(fold(state, over), 120, 40) if "runs 2/6" in line)
    assert not any("runs 1/6" in line for line in screen(state))


def test_a_watched_run_cannot_be_stopped_from_here(story: list[Event]) -> None:
    """The keys say so; a run of a sweep that is watched alone says nothing of the others."""
    watched = folded(*story, state=State(watched=True))
    assert "q leave  ← → page" in screen(watched)[-1]
    assert "pause" not in screen(watched)[-1]
    assert not any("runs 1/6" in line for line in screen(watched, 120, 40))
    assert any("runs 1/6" in line for line in screen(folded(*story), 120, 40))


def test_memory_of_gpus_has_a_column_where_there_are_some(story: list[Event]) -> None:
    """In place of less important ones; without a GPU there is no such column."""
    on_gpus = [
        msgspec.structs.replace(event, gpu_memory_bytes=9_000_000_000) if isinstance(event, WorkerStatus) else event
        for event in story
    ]
    assert any("memory gpu mem" in line for line in screen(folded(*on_gpus)))
    assert any("1.25 GB 9.00 GB" in line for line in screen(folded(*on_gpus)))
    assert not any("gpu mem" in line for line in screen(folded(*story)))


def test_a_warning_stays_until_it_is_older_than_the_pane(story: list[Event]) -> None:
    """Notes that come after it do not push it out; all are counted."""
    after = [Noted(time_s=1_700_000_020.0, text=f"note number {number}") for number in range(30)]
    lines = screen(folded(*story, *after))
    assert any("warning: gpu3:7000 is slow" in line for line in lines)
    assert any("note number 29" in line for line in lines)
    assert any("1 warning ─" in line for line in lines)


def test_metrics_that_do_not_fit_are_on_other_pages(story: list[Event]) -> None:
    """Every curve is on some page, at any size."""
    names = {
        "loss_train",
        "f",
        "accuracy",
        "grad_norm",
        *(f"client_f_{q}" for q in ("min", "q10", "q50", "q90", "max")),
    }
    more = Evaluated(time_s=1_700_000_013.0, run="scaffold-s1-9f2ac1", round=12, metrics=dict.fromkeys(names, 0.5))
    state = folded(*story, more)
    for width, height in ((80, 24), (120, 40), (200, 24)):
        text = "\n".join(line for page in range(9) for line in screen(state, width, height, page))
        assert {name for name in names if name in text} == names
    assert any("metrics 2/2" in line for line in screen(state, page=1))


def test_when_all_runs_are_over_nobody_works(story: list[Event]) -> None:
    """The tasks of a run that ended are no longer any worker's."""
    over = RunFinished(time_s=1_700_000_060.0, run="scaffold-s1-9f2ac1", reason="finished", summary={})
    lines = screen(folded(*story, Stopping(time_s=0.0, reason="q"), over))
    assert any("0/8 slots busy" in line for line in lines)
    assert " STOPPING " not in lines[0]


def test_the_summary_stays_short_and_whole(story: list[Event]) -> None:
    """After the screen: the run, how it ended, its numbers and where they are."""
    over = RunFinished(time_s=1_700_000_060.0, run="scaffold-s1-9f2ac1", reason="finished", summary={"accuracy": 0.9})
    console = Console(file=io.StringIO(), width=100, record=True)
    console.print(summary(folded(*story, over), 100))
    text = console.export_text()
    assert re.search(r"^scaffold-s1-9f2ac1  finished +12/100 rounds in 1:00$", text, re.MULTILINE)
    assert "accuracy 0.9" in text
    assert "runs/digits-fedavg/scaffold-s1-9f2ac1" in text
