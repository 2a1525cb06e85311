"""The same bytes however a run is executed: whole runs, over real processes and sockets, of one experiment file.

Its variants (hers/matrix.toml): FedAvg; a model with dropout; SCAFFOLD in a file of hers, with memory and server
state; her own data and float64 model without, with convex and with nonconvex regularizer, the last of them with data
that no worker can load.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import Daemons, Finished, Process
from tests.system.conftest import Gates

pytestmark = [pytest.mark.net, pytest.mark.chaos, pytest.mark.timeout(400)]

VARIANTS = ("plain", "dropout", "stateful", "regression", "ridge", "table")
GATED = ("plain", "dropout", "stateful")
EXACT = ("clients", "oracle_calls", "bits_up", "bits_down", "direction_norm", "loss", "accuracy", "f", "grad_norm")


@dataclass
class Story:
    """All runs, by the way they were run and the variant; and the workers that were started by hand."""

    runs: dict[str, dict[str, Finished]]
    workers: list[Process]
    killed: dict[str, Process]


@pytest.fixture(scope="module")
def story(
    module_daemons: Daemons, make_her_folder: Callable[[], Path], gates: Gates, tmp_path_factory: pytest.TempPathFactory
) -> Story:
    """Runs everything, several daemons at a time: most of what they do is to import torch."""
    hers, elsewhere = make_her_folder(), tmp_path_factory.mktemp("elsewhere")
    experiment = hers / "matrix.toml"

    def start(way: str, *options: str, env: dict[str, str] | None = None) -> Process:
        return module_daemons.master(experiment, "--runs-dir", str(hers / way), *options, cwd=hers, env=env)

    def finish(*masters: Process) -> None:
        for master in masters:
            assert master.ended() == 0, master.said[-3000:]

    workers = [module_daemons.worker(elsewhere, env=gates.env) for _ in range(2)]
    finish(
        start("reference", "--reference"),
        start("one thread", "--devices", "cpu", "--threads-per-device", "1"),
        start("four threads", "--devices", "cpu", "--threads-per-device", "4"),
    )
    module_daemons.listening(*workers)
    addresses = ("--workers", ",".join(worker.address for worker in workers))
    spawned = start("two spawned", "--spawn", "2")

    killed = {}
    for variant in GATED:
        gates.close(variant, 2)
    mixed = start("one killed", "--devices", "cpu", "--threads-per-device", "1", *addresses, env=gates.env)
    for turn, variant in enumerate(GATED):
        victim = workers[turn % 2]
        mixed.until(partial(gates.is_holding, victim.pid, variant, 2), f"a task held by the victim of {variant}")
        victim.kill()
        killed[variant] = victim
        workers[turn % 2] = module_daemons.worker(elsewhere, port=victim.port, env=gates.env)
        run = Finished.all_in(hers / "one killed")[variant]
        mixed.until(partial(run.events, "WorkerLost"), "the master's notice of the loss")
        if variant == GATED[0]:  # here the round waits for the return; in the others it is done by those who live
            mixed.until(partial(run.events, "WorkerReturned"), "the return of the worker")
            mixed.until(partial(gates.is_holding, workers[0].pid, variant, 2), "a task for the worker that returned")
        module_daemons.listening(workers[(turn + 1) % 2])  # the next victim
        gates.open(variant, 2)
    finish(mixed, spawned)
    module_daemons.listening(*workers)
    finish(start("workers alone", "--devices", "none", *addresses))
    ways = [path.name for path in hers.iterdir() if path.is_dir() and path.name != "__pycache__"]
    return Story({way: Finished.all_in(hers / way) for way in ways}, workers, killed)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("way", ["one thread", "four threads", "two spawned", "one killed", "workers alone"])
def test_ends_with_the_bytes_of_the_reference(story: Story, way: str, variant: str) -> None:
    """Threads, workers, a kill in mid-round and a restart change not one bit of the final model."""
    assert story.runs[way][variant].model_sha256 == story.runs["reference"][variant].model_sha256


@pytest.mark.parametrize("variant", VARIANTS)
def test_measures_what_the_reference_measures(story: Story, variant: str) -> None:
    """Every round is measured once, and everything but times, wire bytes and a sum's last digit is the same."""
    expected = story.runs["reference"][variant].metrics
    assert [line["round"] for line in expected] == [0, 1, 2, 3]
    for way, runs in story.runs.items():
        found = runs[variant].metrics
        pick = [{name: line[name] for name in ("round", *EXACT) if name in line} for line in found]
        assert pick == [{name: line[name] for name in ("round", *EXACT) if name in line} for line in expected], way
        losses = [line["loss_train"] for line in found if line["round"] > 0]
        assert losses == pytest.approx([line["loss_train"] for line in expected[1:]], rel=1e-12), way


def test_the_variants_differ(story: Story) -> None:
    """So the equalities above compare something: no variant ends where another one does, or where it began."""
    runs = story.runs["reference"]
    assert len({runs[variant].model_sha256 for variant in VARIANTS}) == len(VARIANTS)
    for variant in VARIANTS:
        first, last = runs[variant].metrics[0], runs[variant].metrics[-1]
        assert last["f"] < 0.99 * first["f"], variant


@pytest.mark.parametrize("variant", GATED)
def test_the_kill_was_in_mid_round(story: Story, variant: str) -> None:
    """The victim held a task of round 2 that it never finished; others finished it, and it was counted once."""
    run, victim = story.runs["one killed"][variant], story.killed[variant]
    seen = run.events("TaskFinished", "WorkerLost", "RoundFinished")
    lost = next(k for k, event in enumerate(seen) if event["event"] == "WorkerLost")
    assert seen[lost]["name"] == victim.address
    assert {event["round"] for event in seen[:lost] if event["event"] == "RoundFinished"} == {0, 1}
    assert {event["round"] for event in seen[:lost] if event["event"] == "TaskFinished"} == {1}
    tasks = [(event["round"], event["task"]) for event in seen if event["event"] == "TaskFinished"]
    assert sorted(tasks) == [(round, task) for round in (1, 2, 3) for task in range(4)]


def test_the_killed_worker_came_back(story: Story) -> None:
    """Restarted on its port it is taken in again in the middle of the round, and does a task of that very round."""
    run, victim = story.runs["one killed"][GATED[0]], story.killed[GATED[0]]
    seen = run.events("WorkerLost", "WorkerReturned", "TaskFinished")
    returned = next(k for k, event in enumerate(seen) if event["event"] == "WorkerReturned")
    assert seen[returned]["name"] == victim.address
    assert (2, victim.address) in {(event.get("round"), event.get("executor")) for event in seen[returned:]}
    executors = {event["executor"] for event in run.events("TaskFinished")}
    assert executors == {"local", *(worker.address for worker in story.workers)}


def test_workers_alone_did_all_the_work(story: Story) -> None:
    """With `--devices none` the master computes nothing."""
    addresses = {worker.address for worker in story.workers}
    for variant in VARIANTS:
        done = story.runs["workers alone"][variant].events("TaskFinished")
        assert {event["executor"] for event in done} <= addresses
        assert len(done) == (12 if variant in GATED else 3)


def test_workers_get_from_the_master_only_what_they_lack(story: Story) -> None:
    """A worker loads the data it can load; of her table, which lies where only she is, it is sent its shards."""
    for worker in story.workers:
        lacking = [line for line in worker.said.splitlines() if "the data comes from the master" in line]
        assert lacking
        assert all("run table-" in line and "numbers.csv" in line for line in lacking)
