"""metrics.jsonl and events.jsonl on a real disk: whole lines, in order, once."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from master.events import Evaluated, Event, RoundFinished, RunFinished, Warned
from master.observers import metrics_jsonl
from master.observers.metrics_jsonl import EventLog, JsonLines, MetricsLog, last_round, read_events, read_metrics
from protocol.errors import InputError


def finished(number: int, evaluates: bool = False) -> RoundFinished:
    """A round of run "a"."""
    return RoundFinished(time_s=1.0, run="a", round=number, metrics={"clients": number}, evaluates=evaluates)


def evaluated(number: int) -> Evaluated:
    """Its evaluation."""
    return Evaluated(time_s=2.0, run="a", round=number, metrics={"f": 0.5})


def write_rounds(lines: JsonLines, count: int) -> None:
    """One line a round, each at once."""
    for number in range(count):
        lines.write({"round": number})
        lines.flush()


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


@contextmanager
def files_end_at(limit_bytes: int) -> Iterator[None]:
    """The kernel lets no file of this process grow beyond so many bytes (a real limit)."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_refuses_leaves_whole_lines(tmp_path: Path) -> None:
    """The torn end is cut away before the error rises; what was refused is written when there is room again."""
    path = tmp_path / "m"
    lines = JsonLines(path)
    with files_end_at(4096), pytest.raises(OSError, match="File too large"):
        write_rounds(lines, 1000)
    assert path.stat().st_size == lines.offset_bytes <= 4096
    kept = [record["round"] for record in read_metrics(path)]
    assert kept == list(range(len(kept)))
    assert lines.waiting_bytes > 0
    lines.close()
    assert [record["round"] for record in read_metrics(path)] == list(range(len(kept) + 1))


def test_lines_that_were_refused_are_tried_again(tmp_path: Path) -> None:
    """It is said once, the last round stays that of the lines in the file, and none is missing once there is room."""
    said: list[str] = []
    metrics = MetricsLog(tmp_path / "m", "a", warn=said.append)
    with files_end_at(40):
        for number in range(5):
            metrics.observe(finished(number))
            metrics.flush()
        assert (metrics.is_behind, metrics.last_round) == (True, 0)
    (text,) = said
    assert text == f"{tmp_path / 'm'} cannot be written: File too large; its lines are kept and tried again"
    metrics.flush()
    assert (metrics.is_behind, metrics.last_round) == (False, 4)
    assert [record["round"] for record in read_metrics(tmp_path / "m")] == [0, 1, 2, 3, 4]
    assert said[1:] == [f"{tmp_path / 'm'} is written again, and has all its lines"]
    metrics.close()


def test_what_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be written for long is given up, aloud: it never has a later line after a missing one."""
    monkeypatch.setattr(metrics_jsonl, "_WAITING_BYTES", 100)
    said: list[str] = []
    metrics = MetricsLog(tmp_path / "m", "a", warn=said.append)
    with files_end_at(40):
        for number in range(50):
            metrics.observe(finished(number))
            metrics.flush()
    assert "is given up: more lines wait than can be kept" in said[-1]
    metrics.observe(finished(50))
    metrics.flush()
    assert (metrics.is_behind, metrics.last_round) == (True, 0)
    metrics.close()
    assert [record["round"] for record in read_metrics(tmp_path / "m")] == [0]


@pytest.mark.parametrize("after", [b"", b"\0" * 50, b"\0" * 50 + b"\n", b'{"round":4', b'{"round":4}{"\n'])
def test_the_last_round_with_a_line(tmp_path: Path, after: bytes) -> None:
    """Whatever a power cut leaves behind it; and a resume after that round cuts it off."""
    path = tmp_path / "m"
    assert last_round(path) == -1
    lines = JsonLines(path)
    write_rounds(lines, 4)
    lines.close()
    path.write_bytes(path.read_bytes() + after)
    assert last_round(path) == 3
    MetricsLog(path, "a", after_round=3).close()
    assert [record["round"] for record in read_metrics(path)] == [0, 1, 2, 3]


def test_lines_are_synced_from_another_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File and name, the name once; a file that is closed is an error, not a silence."""
    synced: list[int] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    metrics = MetricsLog(tmp_path / "m", "a")
    metrics.sync()
    metrics.sync()
    file, folder = (tmp_path / "m").stat().st_ino, tmp_path.stat().st_ino
    assert synced == [file, folder, file]
    metrics.close()
    with pytest.raises(OSError, match="not written any more"):
        metrics.sync()


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
