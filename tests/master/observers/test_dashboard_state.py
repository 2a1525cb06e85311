"""Folding events: what the screen knows, and that it stays bounded."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator

from master.events import (
    Event,
    Paused,
    Resumed,
    RoundFinished,
    RunFinished,
    RunStarted,
    Stopping,
    TaskFinished,
    WaitingForWorkers,
    Warned,
    WorkerReturned,
    WorkerStatus,
)
from master.observers.dashboard_state import LOG_LINES, SERIES_POINTS, Series, State, fold

RUN = "scaffold-s1-9f2ac1"
Teller = Callable[..., Iterator[Event]]


def folded(*events: Event, state: State | None = None) -> State:
    """The state after them."""
    return functools.reduce(fold, events, state if state is not None else State())


def test_the_story_is_counted(story: list[Event]) -> None:
    """12 rounds done, the 13th half done, every worker's tasks and rate as they were."""
    state = folded(*story)
    run = state.current()
    assert run is not None
    assert (run.finished_rounds, run.round, run.tasks_done, run.tasks) == (12, 13, 4, 8)
    assert [worker.tasks for worker in state.workers.values()] == [25] * 4
    assert [worker.tasks_per_s for worker in state.workers.values()] == [9 / 5] * 4
    assert [point[0] for point in run.series["f"].points] == [5, 10]
    assert run.metrics["bits_up"] == 20_800 * 12
    assert run.eta_s == 12.5 / 12 * 88


def test_fold_changes_nothing_it_was_given(story: list[Event]) -> None:
    """Two folds from the same state agree: the state is a value."""
    half = folded(*story[:40])
    before = repr(half)
    assert folded(*story[40:], state=half) == folded(*story[40:], state=half)
    assert repr(half) == before


def test_a_series_is_bounded_and_holds_only_measured_points() -> None:
    """100,000 values: at most 512 stay, each one as added, evenly apart."""
    series = functools.reduce(lambda kept, number: kept.add(number, number / 7), range(1, 100_001), Series())
    rounds = [point[0] for point in series.points]
    assert SERIES_POINTS // 2 <= len(rounds) < SERIES_POINTS
    assert all(value == number / 7 for number, value in series.points)
    assert {after - before for before, after in itertools.pairwise(rounds)} == {series.stride}


def test_the_log_is_bounded() -> None:
    """A flood of warnings keeps the last lines."""
    state = folded(*(Warned(time_s=0.0, text=f"{number}\nmore") for number in range(LOG_LINES)))
    assert len(state.log) == LOG_LINES
    assert state.log[-2].text == f"warning: {LOG_LINES - 1}"


def test_pause_stop_and_wait_are_shown_until_they_are_over(story: list[Event]) -> None:
    """Each flag comes and goes with its events."""
    state = folded(*story, Paused(time_s=0.0), WaitingForWorkers(time_s=0.0, tasks=7), Stopping(time_s=0.0, reason="q"))
    assert (state.paused, state.waiting_tasks, state.stopping) == (True, 7, "q")
    back = WorkerReturned(time_s=1.0, name="gpu1:7000", address="gpu1:7000", slots=2, devices=("cpu",))
    state = folded(Resumed(time_s=1.0), back, state=state)
    assert (state.paused, state.waiting_tasks) == (False, None)
    assert state.workers["gpu1:7000"].tasks == 25


def test_a_resumed_run_keeps_its_curves_without_what_comes_again(story: list[Event]) -> None:
    """An event file with two starts: rounds 1 to 8 stay, 9 to 12 will be measured again."""
    start = next(event for event in story if isinstance(event, RunStarted))
    values = {name: getattr(start, name) for name in start.__struct_fields__}
    run = folded(*story, RunStarted(**{**values, "first_round": 9})).current()
    assert run is not None
    assert run.finished_rounds == 8
    assert [point[0] for point in run.series["loss_train"].points] == list(range(1, 9))
    assert [point[0] for point in run.series["f"].points] == [5]


def test_a_long_sweep_keeps_curves_of_the_last_run_only(story: list[Event]) -> None:
    """200 runs end: one has its series, all have their last numbers."""
    start = next(event for event in story if isinstance(event, RunStarted))
    values = {name: getattr(start, name) for name in start.__struct_fields__}
    state = State()
    for number in range(200):
        run = f"r{number}"
        state = folded(
            RunStarted(**{**values, "run": run, "time_s": float(number)}),
            RoundFinished(time_s=number + 0.1, run=run, round=1, metrics={"f": 1.0}),
            RunFinished(time_s=number + 0.2, run=run, reason="finished", summary={"f": 1.0}),
            state=state,
        )
    assert [name for name, run in state.runs.items() if run.series] == ["r199"]
    assert all(run.metrics["f"] == 1.0 for run in state.runs.values())
    current = state.current()
    assert current is not None
    assert current.started.run == "r199"


def test_events_of_strangers_change_only_the_clock() -> None:
    """A late task of a forgotten run, a status of an unknown worker: nothing breaks."""
    state = folded(
        TaskFinished(time_s=5.0, run="?", round=1, task=0, executor="?", seconds_s=1.0),
        WorkerStatus(time_s=6.0, name="?", slots=1, busy=0, state="idle"),
        RoundFinished(time_s=4.0, run="?", round=1, metrics={"f": 1.0}),
    )
    assert state == State(now_s=6.0)
