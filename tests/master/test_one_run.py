"""One run through several starts: begun anew, resumed on other data, on damaged files, and on a disk that refuses."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fl_core.experiment.schema import Experiment, SourceFile
from master import checkpoint
from master.daemon import Master
from master.observers.metrics_jsonl import last_round
from master.one_run import folder_of
from master.runs import MEMORIES
from protocol.errors import InputError
from tests.conftest import Finished, small_experiment
from tests.system.conftest import master_options

pytestmark = pytest.mark.timeout(60)


async def start(runs: Path, *experiments: Experiment, **options: Any) -> tuple[int, str]:
    """A master with one thread: its exit code, and what it has said."""
    said = io.StringIO()
    given = {"devices": "cpu"} | options
    return await Master(master_options(runs, **given), said).run(experiments), said.getvalue()


def finished(runs: Path) -> Finished:
    """The only run there."""
    (run,) = Finished.all_in(runs).values()
    return run


def rounds_of(run: Finished) -> list[int]:
    """Those with a line."""
    return [line["round"] for line in run.metrics]


# --- begun anew -----------------------------------------------------------------------------------------------------

GATED = """
import os, time
from dataclasses import dataclass
from algorithms.scaffold import Scaffold

@dataclass(frozen=True)
class Gated(Scaffold):
    gate: str = ""

    def server_gradient(self, server, replies):
        if server.round == 7 and os.path.exists(self.gate):
            open(self.gate + ".reached", "w").close()
            while os.path.exists(self.gate):
                time.sleep(0.001)
        return super().server_gradient(server, replies)
"""


@pytest.mark.parametrize("memory", ["ram", "disk"])
async def test_a_run_begun_anew_and_stopped_goes_on_from_there(tmp_path: Path, memory: str) -> None:
    """Not from a round of the old run that was further: the last start ends with all lines and the old bytes."""
    gate, runs = tmp_path / "gate", tmp_path / "runs"
    experiment = small_experiment(
        rounds=30,
        algorithm={"name": "gated.py", "gate": str(gate)},
        sources=[msgspec.structs.asdict(SourceFile.of("algorithm", "gated.py", GATED))],
        clients={"total": 4, "client_memory": memory},
        checkpoint={"every": 5},
    )
    assert (await start(runs, experiment))[0] == 0
    first = finished(runs).model_sha256
    gate.touch()
    master = Master(master_options(runs, devices="cpu", resume=False), io.StringIO())
    running = asyncio.create_task(master.run([experiment]))
    while not Path(f"{gate}.reached").exists():
        assert not running.done()
        await asyncio.sleep(0.001)  # between two looks
    while not (names := sorted(path.name for path in finished(runs).path.glob("checkpoints/*.safetensors"))):
        assert not running.done()
        await asyncio.sleep(0.001)  # the disk may be slower than two rounds
    assert names == ["round-00000005.safetensors"]
    assert not (finished(runs).path / "summary.json").exists()
    master.stop("the test said so", 15)
    gate.unlink()
    assert await running == 143
    stopped = finished(runs).summary["rounds"]
    assert 6 <= stopped <= 7
    assert (await start(runs, experiment))[0] == 0
    run = finished(runs)
    assert run.events("RunStarted")[-1]["first_round"] == stopped + 1
    assert rounds_of(run) == list(range(31))
    assert run.model_sha256 == first


async def test_a_reference_run_leaves_nothing_to_go_on_from(tmp_path: Path) -> None:
    """It has no checkpoints of its own, and must not end up beside those of another start."""
    experiment = small_experiment(clients={"total": 4, "client_memory": "disk"}, algorithm={"name": "scaffold"})
    await start(tmp_path, experiment)
    assert (await start(tmp_path, experiment, reference=True, resume=False))[0] == 0
    run = finished(tmp_path)
    assert list(run.path.glob("checkpoints/*")) == []
    assert not (run.path / MEMORIES).exists()
    assert rounds_of(run) == [0, 1, 2, 3]


async def test_after_damaged_checkpoints_new_ones_are_kept(tmp_path: Path) -> None:
    """They have lower names than the damaged ones, which are gone; that the run begins anew is said."""
    experiment = small_experiment(rounds=12, checkpoint={"every": 1})
    await start(tmp_path, experiment)
    run = finished(tmp_path)
    (run.path / "summary.json").unlink()
    for path in run.path.glob("checkpoints/*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    code, said = await start(tmp_path, experiment)
    assert code == 0
    assert f"run {run.path.name} begins anew: none of its checkpoints can be used" in said
    found, complaints = checkpoint.latest(run.path / "checkpoints")
    assert found is not None
    assert (found.round, complaints) == (12, [])
    assert rounds_of(run) == list(range(13))


# --- the data -------------------------------------------------------------------------------------------------------

HER_DATA = """
import torch
from fl_core import FederatedData

def load(**options):
    with open("{path}") as file:
        x = torch.tensor([float(word) for word in file.read().split()], dtype=torch.float64)[:, None]
    return FederatedData(train=[(x, 2 * x[:, 0]), (x + 1, x[:, 0])])
"""


@pytest.fixture
def her_file(tmp_path: Path) -> Path:
    """What her code reads."""
    path = tmp_path / "numbers.txt"
    path.write_text("1 2 3")
    return path


def on_her_data(path: Path) -> Experiment:
    """Four rounds on what lies in the file."""
    source = SourceFile.of("data", "hers.py", HER_DATA.format(path=path))
    return small_experiment(
        rounds=4, data={"name": "hers.py"}, clients={"total": 2}, sources=[msgspec.structs.asdict(source)]
    )


@pytest.mark.parametrize("is_finished", [True, False])
async def test_other_data_are_no_way_to_go_on(tmp_path: Path, her_file: Path, is_finished: bool) -> None:
    """Finished or not: what changed and what to do is said, and the run is as it was, or anew if that is asked for."""
    runs = tmp_path / "runs"
    assert (await start(runs, on_her_data(her_file)))[0] == 0
    run = finished(runs)
    old_sha256, summary = run.summary["data_sha256"], run.path / "summary.json"
    if not is_finished:
        summary.unlink()
    her_file.write_text("1 2 4")
    expected = rf"begun with other data \(sha256 {old_sha256[:12]}….*\"hers\.py\" reads has changed.*--no-resume"
    with pytest.raises(InputError, match=expected):
        await start(runs, on_her_data(her_file))
    assert (await start(runs, on_her_data(her_file), small_experiment(label="good")))[0] == 1
    assert summary.exists()
    assert (run.summary["reason"] == "finished") is is_finished
    before = run.model_sha256
    her_file.write_text("1 2 3")
    assert (await start(runs, on_her_data(her_file)))[0] == 0
    assert run.model_sha256 == before
    her_file.write_text("1 2 4")
    assert (await start(runs, on_her_data(her_file), resume=False))[0] == 0
    assert run.model_sha256 != before
    assert run.summary["data_sha256"] != old_sha256


async def test_a_finished_run_does_not_need_its_data(tmp_path: Path, her_file: Path) -> None:
    """They may be cleared away: it stays finished."""
    runs = tmp_path / "runs"
    await start(runs, on_her_data(her_file))
    her_file.unlink()
    code, said = await start(runs, on_her_data(her_file))
    assert code == 0
    assert "is finished already" in said


# --- damaged memories -----------------------------------------------------------------------------------------------


async def test_damaged_memories_cost_their_run_alone(tmp_path: Path) -> None:
    """It has failed, with a summary and a sentence; the next of the sweep runs."""
    bad = small_experiment(label="bad", algorithm={"name": "scaffold"}, clients={"total": 4, "client_memory": "disk"})
    await start(tmp_path, bad)
    run = finished(tmp_path)
    (run.path / "summary.json").unlink()
    (run.path / MEMORIES).write_bytes(b"")
    code, said = await start(tmp_path, bad, small_experiment(label="good"))
    assert code == 1
    assert run.summary["reason"] == "failed"
    assert "what client 0 remembered is damaged; --no-resume starts anew" in run.summary["error"]
    assert run.summary["error"] in said
    assert folder_of(small_experiment(label="good"), tmp_path).status() == "finished"


# --- a disk that refuses --------------------------------------------------------------------------------------------


class FullDisk:
    """Refuses to write to one file so many times, as a disk does that is full for a while."""

    def __init__(self, name: str, times: int) -> None:
        self.left = times
        self._name = name
        self._pwrite = os.pwrite

    def pwrite(self, descriptor: int, content: Any, offset: int) -> int:
        """In the place of the system's."""
        if self.left and Path(f"/proc/self/fd/{descriptor}").readlink().name == self._name:
            self.left -= 1
            raise OSError(28, "No space left on device")
        return self._pwrite(descriptor, content, offset)


LONG = 10**9


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], FullDisk]:
    """Make one."""

    def made(name: str, times: int) -> FullDisk:
        disk = FullDisk(name, times)
        monkeypatch.setattr(os, "pwrite", disk.pwrite)
        return disk

    return made


def saved_rounds(run: Finished) -> list[int]:
    """Of the checkpoints that were told of."""
    return [event["round"] for event in run.events("CheckpointSaved")]


async def test_lines_refused_for_a_while_are_written_later(
    tmp_path: Path, refuse: Callable[[str, int], FullDisk]
) -> None:
    """Checkpoints are missed meanwhile, aloud, and come again; no line is missing."""
    disk = refuse("metrics.jsonl", 6)
    code, said = await start(tmp_path, small_experiment(rounds=40, checkpoint={"every": 1}))
    assert disk.left == 0
    assert code == 3
    run = finished(tmp_path)
    assert rounds_of(run) == list(range(41))
    assert run.summary["reason"] == "finished"
    assert saved_rounds(run)[-1] == 40
    assert saved_rounds(run)[0] > 1
    assert said.count("metrics.jsonl cannot be written: No space left on device; its lines are kept") == 1
    assert "the checkpoint after round 1 could not be written: not all lines of its rounds are in" in said
    assert "metrics.jsonl is written again, and has all its lines" in said


async def test_a_checkpoint_never_gets_ahead_of_the_lines(
    tmp_path: Path, refuse: Callable[[str, int], FullDisk]
) -> None:
    """With no room for lines at all there is none, and the run is not called finished; with room it is run again."""
    disk = refuse("metrics.jsonl", LONG)
    experiment = small_experiment(rounds=5, checkpoint={"every": 1})
    code, said = await start(tmp_path, experiment)
    run = finished(tmp_path)
    assert code == 3
    assert "the rounds are done, but not all of their lines could be written" in said
    assert run.summary["reason"] == "stopped"
    assert list(run.path.glob("checkpoints/*")) == []
    disk.left = 0
    assert (await start(tmp_path, experiment))[0] == 0
    assert rounds_of(run) == list(range(6))


async def test_events_that_are_refused_cost_no_checkpoint(
    tmp_path: Path, refuse: Callable[[str, int], FullDisk]
) -> None:
    """Nothing goes on from events.jsonl; 3 says that not all is written."""
    refuse("events.jsonl", LONG)
    code, said = await start(tmp_path, small_experiment(rounds=5, checkpoint={"every": 1}))
    run = finished(tmp_path)
    assert code == 3
    assert run.summary["reason"] == "finished"
    found, _ = checkpoint.latest(run.path / "checkpoints")
    assert found is not None
    assert found.round == 5
    assert "events.jsonl cannot be written: No space left on device" in said


# --- what a power cut may leave -------------------------------------------------------------------------------------


async def test_lines_are_on_the_disk_before_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each checkpoint gets its name after its rounds' lines were synced, and never on the event loop."""
    fsync, replace = os.fsync, os.replace
    synced, early, on_loop = [-1], list[str](), list[int]()

    def noting_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.name == "metrics.jsonl":
            synced.append(last_round(path))
            if asyncio._get_running_loop() is not None:
                on_loop.append(synced[-1])
        fsync(descriptor)

    def noting_replace(source: Any, target: Any) -> None:
        path = Path(target)
        if path.suffix == ".safetensors" and path.name.startswith("round-"):
            early.extend([path.name] if int(path.stem.removeprefix("round-")) > synced[-1] else [])
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    assert (await start(tmp_path, small_experiment(rounds=10, checkpoint={"every": 2})))[0] == 0
    assert len(synced) >= 6
    assert early == []
    assert on_loop == []


@pytest.mark.parametrize(("lines", "first_round"), [(6, 6), (5, 5), (3, 1), (0, 1)])
async def test_a_checkpoint_ahead_of_the_lines_is_not_used(tmp_path: Path, lines: int, first_round: int) -> None:
    """The one before it is, where that is not ahead too; no line is missing in the end, and it is said."""
    experiment = small_experiment(rounds=5, checkpoint={"every": 1})
    await start(tmp_path, experiment)
    run = finished(tmp_path)
    (run.path / "summary.json").unlink()
    before, metrics = run.model_sha256, run.path / "metrics.jsonl"
    metrics.write_bytes(b"".join(metrics.read_bytes().splitlines(keepends=True)[:lines]))
    code, said = await start(tmp_path, experiment)
    assert code == 0
    assert run.events("RunStarted")[-1]["first_round"] == first_round
    assert rounds_of(run) == list(range(6))
    assert run.model_sha256 == before
    assert said.count("metrics.jsonl ends before its round") == {6: 0, 5: 1}.get(lines, 2)
