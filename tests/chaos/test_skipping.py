"""`on_error`: a client that fails stops the run with its name, or is skipped, the same on every cluster."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.conftest import HERE, exact
from tests.conftest import Daemons
from tests.system.conftest import MasterHere

pytestmark = [pytest.mark.net, pytest.mark.chaos, pytest.mark.timeout(200)]

FAILING = ("rounds=4", "evaluate.every=1", "clients.per_round=60", "uplink={name='identity'}")
BOTH = "algorithm={name='failing.py', raises=5, nan=17}"


@pytest.fixture(scope="module", autouse=True)
def failing(folder: Path) -> None:
    """Her method lies beside the experiment."""
    shutil.copy(HERE / "failing.py", folder)


@pytest.mark.parametrize("plain", [(), ("uplink={name='natural'}",)], ids=["sums", "messages"])
async def test_the_same_clients_are_skipped_everywhere(
    plain: tuple[str, ...], master: Callable[[], MasterHere]
) -> None:
    """Reference, one thread, four threads: the same bytes; the skipped are counted, named, and nobody else misses."""
    found = []
    for options in ({"reference": True}, {"devices": "cpu"}, {"devices": "cpu", "threads_per_device": 4}):
        run = master().start("", *FAILING, *plain, BOTH, "on_error=skip", **options)  # type: ignore[arg-type]  # each option has its own type
        assert await run.ended() == 0, run.out.getvalue()[-2000:]
        found.append(run)
    reference, *others = [run.run for run in found]
    assert [line.get("skipped") for line in reference.metrics] == [None, 1, 2, 2, 2]
    assert [line.get("clients") for line in reference.metrics] == [None, 59, 58, 58, 58]
    for other in others:
        assert other.model_sha256 == reference.model_sha256
        pick = [{k: v for k, v in line.items() if k != "loss_train"} for line in exact(other)]
        assert pick == [{k: v for k, v in line.items() if k != "loss_train"} for line in exact(reference)]
        assert [line.get("skipped") for line in other.metrics] == [None, 1, 2, 2, 2]
    said = found[1].out.getvalue()
    assert "round 1: client 17 is skipped: client 17: compress() was given a vector with NaN or inf" in said
    assert "failing.py:" in said
    assert "this client's data is broken" in said


async def test_a_cohort_may_be_skipped_whole(master: Callable[[], MasterHere]) -> None:
    """Nothing of it is summed, and a round in which nobody is left changes nothing but the count of rounds."""
    one = ("rounds=2", "clients={total=1, per_round=1}", "data.partition={name='iid'}", "execution.cohort=1")
    run = master().start("", *one, "uplink={name='identity'}", BOTH.replace("17", "0"), "on_error=skip", devices="cpu")
    assert await run.ended() == 0, run.out.getvalue()[-2000:]
    assert [line.get("clients") for line in run.run.metrics if line["round"]] == [0, 0]


async def test_a_client_that_fails_stops_the_run_by_default(master: Callable[[], MasterHere]) -> None:
    """Exit code 1, and the client, the file and the line are named."""
    run = master().start("", *FAILING, BOTH.replace("nan=17", "nan=-1"), devices="cpu")
    assert await run.ended() == 1
    said = run.out.getvalue()
    assert "failing.py:" in said
    assert "(client 5" in said


@pytest.mark.parametrize("on_error", ["stop", "skip"])
async def test_a_task_that_kills_three_workers_is_named(
    on_error: str, daemons: Daemons, master: Callable[[], MasterHere], tmp_path: Path
) -> None:
    """Client 3 takes its worker with it: after three it is not tried again; with skip the run goes on without it."""
    workers = [daemons.worker(tmp_path) for _ in range(4)]  # one is left for the other clients
    daemons.listening(*workers)
    few = ("rounds=1", "clients={total=4, per_round=4}", "execution.cohort=1", "uplink={name='identity'}")
    run = master().start(
        "",
        *few,
        "algorithm={name='failing.py', kills=3}",
        f"on_error={on_error}",
        workers=tuple(worker.address for worker in workers),
    )
    assert await run.ended() == (1 if on_error == "stop" else 0), run.out.getvalue()[-2000:]
    said = run.out.getvalue()
    assert "round 1, client 3 (Failing): 3 workers were lost while running this task" in said
    if on_error == "skip":
        assert run.run.metrics[-1]["clients"] == 3
        assert run.run.metrics[-1]["skipped"] == 1
