"""Trackers as observers: in order, in their own thread, bounded, and never in the way of a run."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from master.event_stream import EventStream
from master.events import Evaluated, Event, Metrics, RoundFinished, RunFinished, RunStarted, Warned
from master.observers import tracking
from master.observers.tracking import Tracker, names, trackers
from protocol.errors import InputError


def started(folder: Path, run: str = "a", **more: Any) -> RunStarted:
    """A run whose folder has an experiment."""
    (folder / run).mkdir(exist_ok=True)
    (folder / run / "experiment.toml").write_text('rounds = 3\n[algorithm]\nname = "fedavg"\n')
    given: dict[str, Any] = {"name": "n", "algorithm": "fedavg", "rounds": 3, "clients": 2, "per_round": 2, "d": 4}
    return RunStarted(time_s=1.0, run=run, seed=0, digest="0", folder=str(folder / run), **given, **more)


def finished(run: str = "a") -> RunFinished:
    """Its end."""
    return RunFinished(time_s=9.0, run=run, reason="finished", summary={})


def round_of(number: int, run: str = "a", evaluates: bool = False) -> RoundFinished:
    """A round with one metric."""
    return RoundFinished(time_s=float(number), run=run, round=number, metrics={"bits_up": number}, evaluates=evaluates)


class Notebook:
    """A tracker that writes down what it is told, and by whom."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.threads: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.fails_at = -1

    def open_run(self, event: RunStarted, settings: Mapping[str, Any]) -> Notebook.Run:
        self.told.append(("open", event.run, dict(settings)))
        return Notebook.Run(self, event.run)

    class Run:
        def __init__(self, book: Notebook, run: str) -> None:
            self.book, self.run = book, run

        def log(self, round: int, metrics: Metrics, time_s: float) -> None:
            self.book.gate.wait(30)
            self.book.threads.add(threading.current_thread().name)
            if round == self.book.fails_at:
                raise ConnectionError("the network is down")
            self.book.told.append(("log", self.run, round, dict(metrics)))

        def finish(self, ended: RunFinished | None) -> None:
            self.book.told.append(("finish", self.run, None if ended is None else ended.reason))


class Heard:
    """An observer that keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.rounds = 0

    def observe(self, event: Event) -> None:
        if isinstance(event, Warned):
            self.warnings.append(event.text)
        self.rounds += isinstance(event, RoundFinished)

    def close(self) -> None:
        pass


@pytest.fixture
def book() -> Notebook:
    """What a tracker was told."""
    return Notebook()


def test_records_arrive_whole_in_order_and_in_a_thread(tmp_path: Path, book: Notebook) -> None:
    """A round that is evaluated late is told once, complete; two runs do not mix; settings come by dotted key."""
    tracker = Tracker("book", book.open_run, pytest.fail)
    for event in (
        *(started(tmp_path), started(tmp_path, "b"), round_of(1, evaluates=True), round_of(2), round_of(1, "b")),
        *(Evaluated(time_s=3.0, run="a", round=1, metrics={"f": 0.5}), finished("b"), finished()),
    ):
        tracker.observe(event)
    tracker.close()
    assert book.threads == {"tracker book"}
    assert book.told == [
        ("open", "a", {"rounds": 3, "algorithm.name": "fedavg"}),
        ("open", "b", {"rounds": 3, "algorithm.name": "fedavg"}),
        ("log", "b", 1, {"bits_up": 1}),
        ("log", "a", 1, {"bits_up": 1, "f": 0.5}),
        ("log", "a", 2, {"bits_up": 2}),
        ("finish", "b", "finished"),
        ("finish", "a", "finished"),
    ]


def test_one_that_fails_is_named_once_and_dropped(tmp_path: Path, book: Notebook) -> None:
    """The others hear every round, and the warning names tracker and error."""
    book.fails_at = 1
    stream, heard, tracker = EventStream(lambda: 0.0), Heard(), Tracker("book", book.open_run, pytest.fail)
    stream.subscribe(tracker)
    stream.subscribe(heard)
    stream.emit(started(tmp_path))
    stream.emit(round_of(1))
    tracker._thread.join(30)
    for number in range(2, 5):
        stream.emit(round_of(number))
    stream.close()
    assert heard.rounds == 4
    assert heard.warnings == [
        "Tracker failed and is left out from here on: RuntimeError: book: ConnectionError: the network is down"
    ]


def test_a_failure_after_the_last_event_is_told_at_the_end(tmp_path: Path, book: Notebook) -> None:
    """Nothing is lost without a word."""
    book.fails_at = 1
    tracker = Tracker("book", book.open_run, pytest.fail)
    tracker.observe(started(tmp_path))
    book.gate.clear()
    tracker.observe(round_of(1))
    book.gate.set()
    with pytest.raises(RuntimeError, match="the network is down"):
        tracker.close()


def test_a_slow_one_holds_up_nobody(tmp_path: Path, book: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it sleeps the event loop goes on; what waits is bounded; what is left out is said once."""
    monkeypatch.setattr(tracking, "MOST_WAITING", 3)
    book.gate.clear()
    warned: list[str] = []
    tracker = Tracker("book", book.open_run, warned.append)
    tracker.observe(started(tmp_path))
    for number in range(1, 50):
        tracker.observe(round_of(number))
    assert tracker._queue.qsize() <= 4
    tracker.observe(finished())
    book.gate.set()
    tracker.close()
    assert len(warned) == 1
    assert warned[0].startswith("book is 3 rounds behind: it will lack round ")
    logged = [told[2] for told in book.told if told[0] == "log"]
    assert logged == list(range(1, len(logged) + 1))
    assert 2 <= len(logged) <= 4  # three in the queue, of which the start may be one, and one in hand
    assert book.told[-1] == ("finish", "a", "finished")


def test_one_that_hangs_does_not_keep_flmaster(tmp_path: Path, book: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end waits for a while and says what was not taken."""
    monkeypatch.setattr(tracking, "CLOSE_S", 0.01)
    book.gate.clear()
    tracker = Tracker("book", book.open_run, pytest.fail)
    tracker.observe(started(tmp_path))
    tracker.observe(round_of(1))
    tracker.observe(round_of(2))
    with pytest.raises(TimeoutError, match=r"book did not take \d+ last records within 0.01 s"):
        tracker.close()
    book.gate.set()
    tracker._thread.join(30)


def test_a_run_without_an_end_is_finished_too(tmp_path: Path, book: Notebook) -> None:
    """flmaster may end with an error of its own."""
    tracker = Tracker("book", book.open_run, pytest.fail)
    tracker.observe(started(tmp_path))
    tracker.close()
    assert book.told[-1] == ("finish", "a", None)


def test_the_names_are_the_files() -> None:
    """There is no list to edit."""
    assert names() == ["mlflow", "tensorboard", "wandb"]


def test_an_unknown_tracker_is_an_error_with_the_nearest() -> None:
    """Before anything runs."""
    with pytest.raises(InputError, match='there is no tracker "tensorbord"; did you mean "tensorboard"'):
        trackers(["tensorbord"], pytest.fail)


@pytest.mark.parametrize("name", ["mlflow", "tensorboard", "wandb"])
def test_a_missing_package_is_an_error_that_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never a hard dependency."""
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"master.observers.trackers.{name}", raising=False)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(InputError, match=rf"--track {name} needs {name}: pip install 'flspan\[{name}\]'"):
        trackers([name], pytest.fail)
