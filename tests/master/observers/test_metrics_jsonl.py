"""metrics.jsonl and events.jsonl on a real disk: whole lines, in order, once."""

from __future__ import annotations

import json
import resource
import signal
from pathlib import Path

import pytest

from master.events import Evaluated, Event, RoundFinished, RunFinished, Warned
from master.observers.metrics_jsonl import EventLog, JsonLines, MetricsLog, read_events, read_metrics
from protocol.errors import InputError


def finished(number: int, evaluates: bool = False) -> RoundFinished:
    """A round of run "a"."""
    return RoundFinished(time_s=1.0, run="a", round=number, metrics={"clients": number}, evaluates=evaluates)


def evaluated(number: int) -> Evaluated:
    """Its evaluation."""
    return Evaluated(time_s=2.0, run="a", round=number, metrics={"f": 0.5})


def write_rounds(lines: JsonLines, count: int) -> None:
    """One line a round."""
    for number in range(count):
        lines.write({"round": number})


def test_one_line_a_round_in_order_once_complete(tmp_path: Path) -> None:
    """Evaluation of round 1 arrives after round 3: nothing is written before, then all, in order."""
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsLog(path, "a")
    for event in (finished(1, evaluates=True), finished(2), finished(3, evaluates=True)):
        metrics.observe(event)
    metrics.flush()
    assert read_metrics(path) == []
    metrics.observe(evaluated(1))
    metrics.flush()
    assert read_metrics(path) == [{"round": 1, "clients": 1, "f": 0.5}, {"round": 2, "clients": 2}]
    assert metrics.last_round == 2
    assert metrics.offset_bytes == path.stat().st_size
    metrics.observe(RunFinished(time_s=3.0, run="a", reason="stopped", summary={}))
    metrics.flush()
    assert read_metrics(path)[2:] == [{"round": 3, "clients": 3}]


def test_other_runs_are_not_mine(tmp_path: Path) -> None:
    """Two runs share the stream and not the file."""
    metrics = MetricsLog(tmp_path / "m", "b")
    metrics.observe(finished(1))
    metrics.close()
    assert read_metrics(tmp_path / "m") == []


def test_an_evaluation_that_nobody_announced_is_a_bug(tmp_path: Path) -> None:
    """It raises instead of writing a second line of the same round."""
    metrics = MetricsLog(tmp_path / "m", "a")
    metrics.observe(finished(1))
    with pytest.raises(ValueError, match="nobody awaits an evaluation of round 1"):
        metrics.observe(evaluated(1))


@pytest.mark.parametrize("torn", ["", '{"round":4', '{"round":4,"clients":1}'])
def test_resume_cuts_what_comes_again(tmp_path: Path, torn: str) -> None:
    """Killed in the middle of a line after round 3, resumed after round 2: no duplicate, no torn line."""
    path = tmp_path / "metrics.jsonl"
    before = MetricsLog(path, "a")
    for number in (1, 2, 3):
        before.observe(finished(number))
    before.close()
    with path.open("a") as file:
        file.write(torn)
    resumed = MetricsLog(path, "a", after_round=2)
    resumed.observe(finished(3))
    resumed.close()
    assert [record["round"] for record in read_metrics(path)] == [1, 2, 3]


def test_every_cut_of_a_file_reads_as_whole_lines(tmp_path: Path) -> None:
    """Wherever a crash cuts the file, a reader and the next writer see only whole objects."""
    whole = b"".join(json.dumps({"round": number}).encode() + b"\n" for number in range(3))
    path = tmp_path / "m"
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        count = whole[:cut].count(b"\n")
        assert len(read_metrics(path)) == count
        lines = JsonLines(path)
        lines.write({"round": 9})
        lines.close()
        assert [record["round"] for record in read_metrics(path)] == [*range(count), 9]


def test_a_disk_that_refuses_leaves_whole_lines(tmp_path: Path) -> None:
    """The kernel stops the file at 4,096 bytes (a real limit); the torn end is cut away before the error rises."""
    path = tmp_path / "m"
    lines = JsonLines(path)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_rounds(lines, 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.stat().st_size == lines.offset_bytes <= 4096
    kept = [record["round"] for record in read_metrics(path)]
    assert kept == list(range(len(kept)))
    lines.close()


def test_events_come_back_as_they_were(tmp_path: Path, story: list[Event]) -> None:
    """The stored stream is the stream."""
    path = tmp_path / "events.jsonl"
    events = EventLog(path, "scaffold-s1-9f2ac1")
    for event in [*story, finished(1)]:
        events.observe(event)
    events.close()
    assert list(read_events(path)) == story


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    """File and line are in the sentence."""
    path = tmp_path / "events.jsonl"
    events = EventLog(path, "a")
    events.observe(Warned(time_s=0.0, text="x"))
    events.close()
    for bad in ("{]\n", "[]\n", '{"event":"Nothing"}\n'):
        path.write_bytes(path.read_bytes().split(b"\n")[0] + b"\n" + bad.encode())
        with pytest.raises(InputError, match=r"events\.jsonl, line 2"):
            list(read_events(path))
    assert read_metrics(tmp_path / "none") == []
