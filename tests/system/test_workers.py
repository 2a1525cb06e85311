"""Workers that come late, leave, die, are busy or are not to be trusted: real processes, each with one slot."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from protocol.secret import new_secret, read_secret, write_secret
from tests.conftest import Daemons, Process, until
from tests.system.conftest import Gates, MasterHere

pytestmark = [pytest.mark.net, pytest.mark.chaos, pytest.mark.timeout(300)]


@dataclass
class Place:
    """Three workers: two that anyone on this machine may use, and one with a secret that runs no user code."""

    daemons: Daemons
    folder: Path
    gates: Gates
    workers: list[Process]
    guarded: Process
    secret_file: Path

    def start(self, port: int = 0) -> Process:
        return self.daemons.worker(self.folder, port=port, env=self.gates.env)


@pytest.fixture(scope="module")
def place(module_daemons: Daemons, gates: Gates, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Started together, since each takes seconds to import torch."""
    folder = tmp_path_factory.mktemp("elsewhere")
    write_secret(folder / "secret", new_secret())
    workers = [module_daemons.worker(folder, env=gates.env) for _ in range(2)]
    guarded = module_daemons.worker(folder, "--no-user-code", "--secret-file", str(folder / "secret"))
    module_daemons.listening(*workers, guarded)
    return Place(module_daemons, folder, gates, workers, guarded, folder / "secret")


Make = Callable[[], MasterHere]


@pytest.fixture
async def plain_sha256(master_here: Make) -> str:
    """The model of the run that these tests disturb, by one local thread."""
    undisturbed = master_here().start("plain", devices="cpu")
    assert await undisturbed.ended() == 0
    return undisturbed.run.model_sha256


def tasks_done(run: MasterHere) -> list[tuple[int, int]]:
    """(round, task) of what was counted."""
    return sorted((event["round"], event["task"]) for event in run.run.events("TaskFinished"))


ALL_TASKS = [(round, task) for round in (1, 2, 3) for task in range(4)]


async def test_a_worker_that_drains_loses_nothing(place: Place, master_here: Make, plain_sha256: str) -> None:
    """On SIGTERM it finishes what runs, hands the rest to the others, and exits with 0."""
    leaving, staying = place.workers
    place.gates.close("plain", 2)
    run = master_here().start("plain", workers=(leaving.address, staying.address))
    await run.until(partial(place.gates.is_holding, leaving.pid, "plain", 2), "a task at the one that leaves")
    await run.until(partial(place.gates.is_holding, staying.pid, "plain", 2), "a task at the one that stays")
    leaving.signal(signal.SIGTERM)
    await run.until(lambda: "draining: 2 tasks" in leaving.said, "the worker's word")
    assert leaving.popen.poll() is None
    place.gates.open("plain", 2)
    assert await run.ended() == 0
    assert leaving.ended() == 0
    assert run.run.model_sha256 == plain_sha256
    assert tasks_done(run) == ALL_TASKS
    done_by_it = [event for event in run.run.events("TaskFinished") if event["executor"] == leaving.address]
    assert [event["round"] for event in done_by_it if event["round"] >= 2] == [2]
    place.workers[0] = place.start()  # for the tests that follow


async def test_workers_come_late_die_all_together_and_come_back(
    place: Place, master_here: Make, plain_sha256: str
) -> None:
    """The run takes a late one in, waits while nobody lives, and ends as if nothing had been."""
    place.daemons.listening(*place.workers)
    late, early = place.workers
    late.kill()
    place.gates.close("plain", 2)
    run = master_here().start("plain", workers=(early.address, late.address))
    await run.until(partial(place.gates.is_holding, early.pid, "plain", 2), "a task at the early one")
    late = place.start(late.port)  # and do not wait here: the master lives on this thread
    joined = await run.until_event("WorkerJoined", name=late.address)
    assert joined["time_s"] > (await run.until_event("RoundStarted", round=2))["time_s"]
    await run.until(partial(place.gates.is_holding, late.pid, "plain", 2), "a task at the late one")
    for worker in (early, late):
        worker.kill()
    waiting = await run.until_event("WaitingForWorkers")
    assert waiting["tasks"] == 4
    place.gates.open("plain", 2)
    place.workers = [place.start(late.port), place.start(early.port)]
    assert await run.ended() == 0
    assert run.run.model_sha256 == plain_sha256
    assert tasks_done(run) == ALL_TASKS
    assert len(run.run.events("WorkerLost")) == 2
    assert run.run.events("WorkerReturned")


@pytest.mark.slow
async def test_a_worker_that_freezes_is_given_up_and_taken_back(
    place: Place, master_here: Make, plain_sha256: str
) -> None:
    """Silent for 5 s it is lost and its tasks run elsewhere; thawed it is one more worker, its old results void."""
    place.daemons.listening(*place.workers)
    frozen, awake = place.workers
    place.gates.close("plain", 2)
    run = master_here().start("plain", workers=(frozen.address, awake.address))
    await run.until(partial(place.gates.is_holding, frozen.pid, "plain", 2), "a task at the one that freezes")
    await run.until(partial(place.gates.is_holding, awake.pid, "plain", 2), "a task at the other")
    frozen.signal(signal.SIGSTOP)
    lost = await run.until_event("WorkerLost")
    assert (lost["name"], lost["reason"]) == (frozen.address, "nothing was heard for 5 s")
    frozen.signal(signal.SIGCONT)
    await run.until_event("WorkerReturned", name=frozen.address)
    place.gates.open("plain", 2)
    assert await run.ended() == 0
    assert run.run.model_sha256 == plain_sha256
    assert tasks_done(run) == ALL_TASKS


async def test_a_second_master_is_sent_away(place: Place, master_here: Make) -> None:
    """It is told why, does its work by itself, and the first one does not notice."""
    place.daemons.listening(*place.workers)
    worker = place.workers[0]
    place.gates.close("plain", 2)
    first = master_here().start("plain", workers=(worker.address,))
    await first.until(partial(place.gates.is_holding, worker.pid, "plain", 2), "a task of the first master")
    second = master_here().start("regression", devices="cpu", workers=(worker.address,))
    assert await second.ended() == 0
    alone = master_here().start("regression", devices="cpu")
    assert await alone.ended() == 0
    assert second.run.model_sha256 == alone.run.model_sha256
    await first.until(lambda: "this worker serves another master" in second.out.getvalue(), "the reason")
    place.gates.open("plain", 2)
    assert await first.ended() == 0
    assert first.run.events("WorkerLost") == []


async def test_a_worker_with_a_secret_serves_who_holds_it(place: Place, master_here: Make, tmp_path: Path) -> None:
    """A wrong secret or none is a clear warning while the master tries on; the right one is all it takes."""
    for secret in (new_secret(), None):
        stranger = master_here().start("plain", workers=(place.guarded.address,), secret=secret)
        await stranger.until(stranger.has_warned, "a warning")
        await stranger.until_event("WaitingForWorkers")
        assert await stranger.stop() == 143
        (warning,) = [line for line in stranger.out.getvalue().splitlines() if line.startswith("warning: ")]
        assert f"worker {place.guarded.address} cannot be reached" in warning
        assert "most likely it does not hold the same secret; give both sides the same --secret-file" in warning
    overrides = ("data={name='digits', partition={name='iid'}}", "model={name='logistic'}", "algorithm={name='fedavg'}")
    known = master_here().start(
        "plain",
        *overrides,
        "run=[{label='plain'}]",
        workers=(place.guarded.address,),
        secret=read_secret(place.secret_file),
    )
    assert await known.ended() == 0
    assert {event["executor"] for event in known.run.events("TaskFinished")} == {place.guarded.address}


async def test_a_worker_without_user_code_says_so(place: Place, master_here: Make) -> None:
    """The master names the worker and the option; its other executors do the work."""
    master = master_here().start(
        "plain", workers=(place.guarded.address,), secret=read_secret(place.secret_file), devices="none"
    )
    warned = await master.until(lambda: "--no-user-code" in master.out.getvalue(), "the reason")
    assert warned
    assert f"worker {place.guarded.address}" in master.out.getvalue()
    assert await master.stop() == 143


def test_an_error_of_hers_on_a_worker_ends_the_run(place: Place, make_her_folder: Callable[[], Path]) -> None:
    """Exit code 1, and the message names her file and line, the client and the worker; the worker lives on."""
    hers, (worker, _) = make_her_folder(), place.workers
    place.daemons.listening(worker)
    text = (hers / "gated.py").read_text(encoding="utf-8")
    raising = text.replace("return client.gradient(x)", "return client.gradient(x) * (1 // (client.id - CULPRIT))")
    assert raising != text
    (hers / "gated.py").write_text(raising + "\n\nCULPRIT = 5\n", encoding="utf-8")
    line = next(k for k, row in enumerate(raising.splitlines(), start=1) if "CULPRIT" in row)
    only = ("--set", "run=[{label='plain'}]", "--set", "clients.per_round=12")
    options = ("--devices", "none", "--workers", worker.address, "--runs-dir", str(hers / "runs"), *only)
    master = place.daemons.master(hers / "matrix.toml", *options, cwd=hers)
    assert master.ended() == 1
    told = [row for row in master.said.splitlines() if "ZeroDivisionError" in row]
    assert f"gated.py:{line}: ZeroDivisionError: " in told[0]
    assert f"(client 5, worker {worker.address})" in told[0]
    assert worker.popen.poll() is None
    until(lambda: "is gone" in worker.said.splitlines()[-1], "the worker's end with this master")
