"""`flctl watch`: a stored run on screen and as lines, and one that is still being written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from master.events import Event, RoundFinished, RunFinished, RunStarted, Warned, encode
from master.flctl.following import Following
from master.runs import RunFolder, environment
from protocol.errors import InputError
from tests.conftest import until
from tests.master.observers.terminal import ROOT, Terminal

Flctl = Callable[..., Result]


def begun(run: str, rounds: int = 3) -> RunStarted:
    """A run with only what an observer needs."""
    return RunStarted(time_s=1.0, run=run, name="quad", algorithm="fedavg", rounds=rounds, clients=4, per_round=4, d=3,
                      seed=1, digest="0", folder=f"runs/quad/{run}")  # fmt: skip


def store(folder: Path, *events: Event) -> None:
    """Append them to its event file."""
    folder.mkdir(exist_ok=True)
    with (folder / "events.jsonl").open("a") as file:
        file.writelines(json.dumps(encode(event)) + "\n" for event in events)


def rounds(run: str, *numbers: int) -> list[Event]:
    """These rounds, a second each."""
    return [RoundFinished(time_s=1.0 + number, run=run, round=number, metrics={"f": 0.5}) for number in numbers]


def test_a_file_is_read_on_from_where_it_ended(tmp_path: Path) -> None:
    """Only whole lines, each once; a file that is not there yet has none."""
    following = Following(lambda: [tmp_path / "a"])
    assert list(following.new()) == []
    store(tmp_path / "a", begun("a"), *rounds("a", 1))
    assert len(list(following.new())) == 2
    line = json.dumps(encode(*rounds("a", 2))) + "\n"
    with (tmp_path / "a" / "events.jsonl").open("a") as file:
        file.write(line[:20])
        file.flush()
        assert list(following.new()) == []
        file.write(line[20:])
    assert list(following.new()) == rounds("a", 2)


def test_several_files_are_one_stream(tmp_path: Path) -> None:
    """By time; what every run under way has stored is heard once."""
    told = Warned(time_s=2.5, text="a worker is slow")
    for run in "ab":
        store(tmp_path / run, begun(run), *rounds(run, 1, 2), told)
    heard = list(Following(lambda: [tmp_path / "a", tmp_path / "b"]).new())
    assert [event.time_s for event in heard] == sorted(event.time_s for event in heard)
    assert heard.count(told) == 1
    assert len(heard) == 7


@pytest.mark.parametrize(("line", "reason"), [("{", "no JSON"), ("[]", "no JSON object"), ('{"event":"X"}', "'X'")])
def test_a_damaged_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    """With its file and number."""
    store(tmp_path / "a", begun("a"))
    with (tmp_path / "a" / "events.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=rf"events.jsonl, line 2.*{reason}"):
        list(Following(lambda: [tmp_path / "a"]).new())


def test_without_a_terminal_it_prints_the_log(flctl: Flctl, runs_dir: Path) -> None:
    """The very lines of log.txt; of a sweep all runs."""
    run = sorted((runs_dir / "quad").iterdir())[0]
    shown = flctl("watch", run.name)
    assert shown.exit_code == 0
    assert shown.stdout == (run / "log.txt").read_text()
    every = flctl("watch", "quad").stdout
    assert every.count("  round 8/8") + every.count("] round 8/8") == 4
    assert flctl("watch").exit_code == 2
    assert flctl("watch", "nothing").exit_code == 2


def test_a_run_whose_process_vanished_is_told(flctl: Flctl, runs_dir: Path) -> None:
    """No line says its end, so watch does."""
    run = sorted((runs_dir / "quad").iterdir())[0]
    lines = (run / "events.jsonl").read_text().splitlines(keepends=True)
    (run / "events.jsonl").write_text("".join(line for line in lines if '"RunFinished"' not in line))
    (run / "summary.json").unlink()
    last = flctl("watch", run.name).stdout.splitlines()[-1]
    assert f"run {run.name} interrupted: its process ended without a word" in last


def test_a_running_run_is_followed_to_its_end(tmp_path: Path) -> None:
    """Lines appear as they are written, and it ends when the run lets go of its folder."""
    folder = RunFolder(tmp_path / "runs" / "quad" / "a-s1-0")
    lock = folder.open('name = "quad"\nrounds = 3\n', environment([], []))
    store(folder.path, begun("a-s1-0"), *rounds("a-s1-0", 1))
    out = tmp_path / "out.txt"
    command = [sys.executable, "-c", "from master.flctl import main; main()", "watch", "a-s1", "--runs-dir"]
    with out.open("w") as stdout:
        process = subprocess.Popen([*command, str(tmp_path / "runs")], cwd=ROOT, stdout=stdout)
        try:
            until(lambda: "round 1/3" in out.read_text(), "the first round")
            store(folder.path, *rounds("a-s1-0", 2))
            until(lambda: "round 2/3" in out.read_text(), "a round that was added")
            assert process.poll() is None
            store(folder.path, *rounds("a-s1-0", 3))
            store(folder.path, RunFinished(time_s=9.0, run="a-s1-0", reason="finished", summary={}))
            lock.close()
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
            process.wait()
    assert [line.split("  ")[1] for line in out.read_text().splitlines()][1:] == [
        *("round 1/3", "round 2/3", "round 3/3", "run a-s1-0 finished")
    ]


@pytest.fixture
def screen_of(runs_dir: Path) -> Iterator[Callable[..., Terminal]]:
    """`screen_of("quad", "--speed", "9")`: flctl watch on a terminal of 100x30."""
    opened: list[Terminal] = []

    def show(*words: str) -> Terminal:
        command = [sys.executable, "-W", "error", "-c", "from master.flctl import main; main()", "watch"]
        opened.append(Terminal(100, 30, [*command, "--runs-dir", str(runs_dir), *words]))
        return opened[-1]

    yield show
    for terminal in opened:
        terminal.close()


def test_a_stored_run_is_a_dashboard(runs_dir: Path, screen_of: Callable[..., Terminal]) -> None:
    """Its last frame, which q leaves; p does nothing, for it is no run of this process."""
    run = sorted((runs_dir / "quad").iterdir())[0]
    terminal = screen_of(run.name)
    text = terminal.until(lambda text: "round 8/8" in text and "finished" in text and "q leave" in text)
    assert "grad_norm" in text
    assert "PAUSED" not in text
    assert "0/1 slots busy" in text
    terminal.press(b"p")
    terminal.press(b"q")
    terminal.until(lambda text: re.search(rf"{run.name}  finished +8/8 rounds", text))
    assert terminal.process.wait(timeout=30) == 0


def test_a_stored_run_is_replayed_at_a_pace(runs_dir: Path, screen_of: Callable[..., Terminal]) -> None:
    """With --speed it begins at the beginning, in the time of then, and q leaves in the middle of it."""
    run = sorted((runs_dir / "quad").iterdir())[0]
    events = (run / "events.jsonl").read_text().splitlines()
    slowed = []
    for number, event in enumerate(map(json.loads, events)):
        slowed.append(json.dumps({**event, "time_s": 1e9 + number}))
    (run / "events.jsonl").write_text("\n".join(slowed) + "\n")
    terminal = screen_of(run.name, "--speed", "20")
    terminal.until(lambda text: re.search(r"round [1-5]/8", text))
    terminal.press(b"q")
    terminal.until(lambda text: re.search(rf"{run.name}  unfinished", text))
    assert terminal.process.wait(timeout=30) == 0
