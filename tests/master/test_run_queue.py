"""Several runs on the same slots at once: the same numbers, stopped together, and taken up again."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fl_core.experiment.schema import Experiment
from master.daemon import Master
from master.one_run import folder_of
from master.options import MasterOptions
from master.runs import RunLock
from protocol.errors import InputError
from tests.conftest import Daemons, Finished, small_experiment

pytestmark = pytest.mark.timeout(100)

OF_THE_MACHINE = {"round_s", "elapsed_s"}


def options(runs: Path, parallel_runs: int, workers: tuple[str, ...] = ()) -> MasterOptions:
    """Two local threads, or workers alone."""
    return MasterOptions(
        workers=workers,
        devices="none" if workers else "cpu",
        threads_per_device=2,
        reference=False,
        data_root=None,
        runs_dir=runs,
        resume=True,
        dashboard=False,
        secret=None,
        lz4=False,
        command_line=(),
        parallel_runs=parallel_runs,
    )


async def finished(runs: Path, parallel_runs: int, *experiments: Experiment) -> dict[str, Finished]:
    """The runs by label, once all have ended well."""
    assert await Master(options(runs, parallel_runs), io.StringIO()).run(experiments) == 0
    return Finished.all_in(runs)


def sweep(rounds: int = 40) -> list[Experiment]:
    """Methods with and without memory, random compression, sampling of clients: what could be mixed up."""
    tables: list[dict[str, Any]] = [
        {"label": "a", "seed": 1},
        {"label": "b", "seed": 2},
        {"label": "c", "algorithm": {"name": "scaffold"}, "clients": {"total": 4, "per_round": 2}},
        {"label": "d", "algorithm": {"name": "diana"}, "uplink": {"name": "randk", "k": 1}, "local": {"steps": 1}},
    ]
    return [small_experiment(rounds=rounds, **table) for table in tables]


def numbers(run: Finished) -> list[dict[str, Any]]:
    """What was measured, but for times."""
    return [{name: v for name, v in line.items() if name not in OF_THE_MACHINE} for line in run.metrics]


async def test_side_by_side_changes_no_number(tmp_path: Path) -> None:
    """Each run ends with the bytes and metrics that it has when it runs alone, in a log of its own."""
    alone = await finished(tmp_path / "alone", 1, *sweep())
    beside = await finished(tmp_path / "beside", 3, *sweep())
    assert list(beside) == ["a", "b", "c", "d"]
    for label, run in beside.items():
        assert run.model_sha256 == alone[label].model_sha256
        assert numbers(run) == numbers(alone[label])
        assert {event["run"] for event in run.events("RoundFinished", "TaskFinished")} == {run.path.name}
        assert (run.path / "log.txt").read_text().count("round 40/40") == 1
    assert len({run.model_sha256 for run in beside.values()}) == 4


@pytest.mark.net
async def test_workers_shared_by_runs_change_no_number(tmp_path: Path, daemons: Daemons) -> None:
    """Over sockets as on threads; whose the bytes on the wire were is not said, since nobody knows."""
    workers = [daemons.worker(tmp_path), daemons.worker(tmp_path)]
    alone = await finished(tmp_path / "alone", 1, *sweep())
    daemons.listening(*workers)
    shared = options(tmp_path / "shared", 3, tuple(worker.address for worker in workers))
    assert await Master(shared, io.StringIO()).run(sweep()) == 0
    for label, run in Finished.all_in(tmp_path / "shared").items():
        assert run.model_sha256 == alone[label].model_sha256
        assert numbers(run) == numbers(alone[label])
        assert {event["executor"] for event in run.events("TaskFinished")} <= {worker.address for worker in workers}


async def test_a_stopped_sweep_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Two runs are seen under way at once, stopped and saved; the same command ends them with the same bytes."""
    alone = await finished(tmp_path / "alone", 1, *sweep(rounds=300)[:3])
    master = Master(options(tmp_path / "runs", 2), io.StringIO())
    running = asyncio.create_task(master.run(sweep(rounds=300)[:3]))

    def under_way() -> int:
        runs = Finished.all_in(tmp_path / "runs").values()
        return sum(len(run.events("RoundFinished")) > 2 for run in runs)

    while under_way() < 2:
        assert not running.done()
        await asyncio.sleep(0.01)  # between two looks
    master.stop("the test said so", 15)
    assert await running == 143
    stopped = Finished.all_in(tmp_path / "runs")
    assert [run.summary["reason"] for run in stopped.values()] == ["stopped", "stopped"]
    again = await finished(tmp_path / "runs", 2, *sweep(rounds=300)[:3])
    for label, run in again.items():
        assert run.model_sha256 == alone[label].model_sha256
        assert numbers(run) == numbers(alone[label])
    assert all(event["first_round"] > 1 for label in stopped for event in again[label].events("RunStarted")[1:])


async def test_the_same_experiment_twice_runs_once(tmp_path: Path) -> None:
    """The second waits for the first one's folder and finds it finished."""
    runs = await finished(tmp_path, 2, small_experiment(), small_experiment())
    assert len(runs["fedavg"].events("RunStarted")) == 1


async def test_a_run_that_cannot_begin_fails_alone(tmp_path: Path) -> None:
    """One whose theorem refuses its setting, one whose folder is taken: each is told and recorded, the others run."""
    taken, good = small_experiment(label="taken"), small_experiment(label="good", rounds=50)
    theory = {"server": {"optimizer": {"name": "sgd", "lr": "theory"}}}
    impossible = small_experiment(label="impossible", algorithm={"name": "fednova"}, **theory)
    folder = tmp_path / "small" / f"taken-s0-{taken.digest()}"
    folder.mkdir(parents=True)
    said = io.StringIO()
    with RunLock(folder):
        code = await Master(options(tmp_path, 1), said).run([taken, impossible, good])
    assert code == 1
    assert [line.split(":")[0] for line in said.getvalue().splitlines() if " failed: " in line] == [
        f"run {folder.name} failed",
        f"run {folder_of(impossible, tmp_path).path.name} failed",
    ]
    assert folder_of(good, tmp_path).status() == "finished"
    summary = folder_of(impossible, tmp_path).summary()
    assert summary is not None
    assert summary["reason"] == "failed"
    assert "no theorem is known here" in summary["error"]
    assert summary["error"] in folder_of(impossible, tmp_path).log.read_text()


async def test_where_no_run_can_begin_the_error_is_the_callers(tmp_path: Path) -> None:
    """So that a start in which nothing has run ends as an input error does."""
    runs = [small_experiment(seed=s, server={"optimizer": {"name": "adam", "lr": "theory"}}) for s in (1, 2)]
    with pytest.raises(InputError, match='plain "sgd" on the server'):
        await Master(options(tmp_path, 2), io.StringIO()).run(runs)


async def test_a_run_that_fails_costs_the_exit_code_only(tmp_path: Path) -> None:
    """The others finish; the code is 1."""
    source = {"role": "algorithm", "name": "hers.py", "text": HERS, "sha256": _sha256(HERS)}
    hers = small_experiment(algorithm={"name": "hers.py"}, sources=[source])
    master = Master(options(tmp_path, 2), io.StringIO())
    assert await master.run([hers, msgspec.structs.replace(small_experiment(rounds=50), label="good")]) == 1
    reasons = {label: run.summary["reason"] for label, run in Finished.all_in(tmp_path).items()}
    assert reasons == {"good": "finished", "hers": "failed"}


async def test_a_traceback_is_in_the_log_file_alone(tmp_path: Path) -> None:
    """The terminal has her line and message and where the rest is; what was measured is a line of its own."""
    source = {"role": "algorithm", "name": "hers.py", "text": HERS, "sha256": _sha256(HERS)}
    hers = small_experiment(algorithm={"name": "hers.py"}, sources=[source])
    said = io.StringIO()
    assert await Master(options(tmp_path, 1), said).run([hers]) == 1
    folder = folder_of(hers, tmp_path)
    failed, measured = said.getvalue().splitlines()[-2:]
    assert failed.startswith(f"run {folder.path.name} failed: ")
    assert "hers.py:6: ArithmeticError: as she wrote it" in failed
    assert failed.endswith(f"(traceback in {folder.log})")
    assert measured.startswith(f"run {folder.path.name} measured last  ")
    assert "Traceback" in folder.log.read_text()
    assert 'raise ArithmeticError("as she wrote it")' in folder.log.read_text()


async def test_a_log_without_room_costs_the_exit_code_alone(tmp_path: Path) -> None:
    """The rounds are done and saved; 3 says that something is not."""
    experiment = small_experiment()
    folder = folder_of(experiment, tmp_path)
    folder.path.mkdir(parents=True)
    folder.log.symlink_to("/dev/full")
    assert await Master(options(tmp_path, 1), io.StringIO()).run([experiment]) == 3
    assert folder.status() == "finished"


HERS = """
from algorithms.fedavg import FedAvg

class Hers(FedAvg):
    def local_gradient(self, client, x, s):
        raise ArithmeticError("as she wrote it")
"""


def _sha256(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()
