"""The files of a run's folder: what is lacking is known, and what goes on from it waits for the lines."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from master import events
from master.event_stream import EventStream
from master.run_files import RunFiles
from master.runs import RunFolder


class Bench:
    """A folder, its files, and what is warned of."""

    def __init__(self, path: Path, after_round: int = -1) -> None:
        self.folder = RunFolder(path)
        self.stream = EventStream(lambda: 0.0)
        self.warned: list[str] = []
        self.files = RunFiles(self.folder, "r", self.stream, after_round, self.warned.append)

    def finish(self, *rounds: int) -> None:
        """The server has stepped in these rounds."""
        for number in rounds:
            self.stream.emit(events.RoundFinished(time_s=0.0, run="r", round=number, metrics={"clients": 2}))

    def lines(self) -> list[int]:
        """The rounds of metrics.jsonl."""
        return [json.loads(line)["round"] for line in self.folder.metrics.read_text().splitlines()]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Of a run that begins."""
    made = Bench(tmp_path)
    yield made
    made.files.close()


def test_everything_that_was_told_is_written(bench: Bench) -> None:
    """Lines, events and log; nothing is lacking then."""
    bench.finish(1, 2)
    bench.files.flush()
    assert bench.files.lacking() == []
    assert not bench.files.is_unsaved
    assert bench.lines() == [1, 2]
    bench.stream.emit(events.Noted(time_s=0.0, text="so it is"))
    bench.files.close()
    assert len(bench.folder.events.read_text().splitlines()) == 3
    assert "so it is" in bench.folder.log.read_text()
    bench.finish(3)
    assert bench.lines() == [1, 2]


def test_a_run_that_goes_on_writes_new_lines_after_its_round(bench: Bench, tmp_path: Path) -> None:
    """Those of later rounds are gone."""
    bench.finish(1, 2, 3)
    bench.files.close()
    again = Bench(tmp_path, after_round=1)
    again.finish(2)
    again.files.close()
    assert again.lines() == [1, 2]


def test_sync_refuses_rounds_whose_lines_are_not_there(bench: Bench) -> None:
    """A checkpoint of such a round must not be saved."""
    bench.finish(1)
    bench.files.sync(1)
    with pytest.raises(OSError, match=r"not all lines of its rounds are in .*metrics\.jsonl"):
        bench.files.sync(2)


def test_a_disk_that_refuses_lines_leaves_them_lacking(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, until it takes them; that something was missing stays known."""

    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", refuse)
        bench.finish(1)
        bench.files.flush()
        assert bench.files.lacking() == ["metrics.jsonl", "events.jsonl"]
    bench.files.flush()
    assert bench.files.lacking() == []
    assert bench.files.is_unsaved
    assert bench.lines() == [1]
    assert sum("No space left on device" in text for text in bench.warned) == 2


def test_a_log_that_cannot_be_closed_is_told(bench: Bench) -> None:
    """What it still holds finds no room: that costs these lines, and is no exception."""
    with Path("/dev/full").open("w") as full:
        full.write("a line")
        bench.files._close_log(full)
    assert bench.files.is_unsaved
    assert bench.warned == [f"the last lines of {bench.folder.log} could not be written: No space left on device"]
