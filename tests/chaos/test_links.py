"""Links that are slow, stall, flip bits or are cut: the heartbeat and the checksums notice, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.conftest import Undisturbed
from tests.chaos.faulty_proxy import BitFlips, FaultyProxy, Slow, Stall
from tests.conftest import Finished, Process
from tests.system.conftest import MasterHere

pytestmark = [pytest.mark.net, pytest.mark.chaos, pytest.mark.timeout(300)]


async def test_a_slow_line_changes_nothing(
    workers: list[Process], undisturbed: Undisturbed, master: Callable[[], MasterHere]
) -> None:
    """200 kB/s in pieces of 4 KiB: the worker is not taken for dead, and what it computes counts."""
    proxy = FaultyProxy(workers[0].port, Slow(200e3))
    run = master().start("", workers=(proxy.address, *(each.address for each in workers[1:])))
    assert await run.ended() == 0
    proxy.close()
    undisturbed.must_be(run.run)
    assert proxy.connections == 1
    assert proxy.address in {event["executor"] for event in run.run.events("TaskFinished")}


@pytest.mark.soak
async def test_a_line_that_stalls_is_given_up_within_6_s(
    workers: list[Process], undisturbed: Undisturbed, master: Callable[[], MasterHere]
) -> None:
    """Both ends stay connected, no byte passes: the heartbeat notices, the tasks run elsewhere, the worker returns."""
    fault = Stall(after_bytes=40_000)
    proxy = FaultyProxy(workers[0].port, fault)
    run = master().start("", "algorithm.step_s=0.02", workers=(proxy.address, workers[1].address))
    await run.until(fault.done.is_set, "the stall")
    stalled_s = time.time()
    lost = await run.until_event("WorkerLost")
    assert lost["time_s"] - stalled_s < 6
    assert await run.ended() == 0
    proxy.close()
    undisturbed.must_be(run.run)
    assert proxy.connections >= 2


async def test_flipped_bits_cost_a_retry_each(
    workers: list[Process], undisturbed: Undisturbed, master: Callable[[], MasterHere]
) -> None:
    """One in 30 kB here (a round is small), both ways: every one closes the link, none reaches a sum."""
    fault = BitFlips(every_bytes=30_000)
    proxy = FaultyProxy(workers[0].port, fault)
    run = master().start("", workers=(proxy.address, *(each.address for each in workers[1:])))
    assert await run.ended() == 0
    proxy.close()
    undisturbed.must_be(run.run)
    assert fault.flips >= 1
    lost = len(run.run.events("WorkerLost"))
    assert lost <= proxy.connections <= 1 + lost  # a link lost as the run ends is not dialled again


@pytest.mark.soak
async def test_one_flip_in_ten_megabytes(workers: list[Process], master: Callable[[], MasterHere]) -> None:
    """With a model of 1.2 MB: flips in tensors, and the bytes are those of a run without the line."""
    large = ("model={name='mlp', hidden=[4000]}", "clients.per_round=12", "algorithm={name='fedavg'}")
    plain = master().start("", *large, "uplink={name='identity'}", devices="cpu")
    assert await plain.ended() == 0
    fault = BitFlips(every_bytes=10_000_000)
    proxy = FaultyProxy(workers[0].port, fault)
    run = master().start("", *large, "uplink={name='identity'}", workers=(proxy.address, workers[1].address))
    assert await run.ended() == 0
    proxy.close()
    assert fault.flips >= 3
    assert run.run.model_sha256 == plain.run.model_sha256


_IN_NAMESPACE = """
set -e
ip link set lo up
{python} -m worker.cli --port 7311 --devices cpu --threads-per-device 1 >worker.out 2>&1 &
worker=$!
{python} -m master.cli --no-dashboard --devices none --workers 127.0.0.1:7311 {set} chaos.toml >master.out 2>&1 &
master=$!
until grep -q '"RoundFinished".*"round": *2' runs/*/*/events.jsonl 2>/dev/null; do sleep 0.02; done
ip link set lo down
until grep -q WorkerLost runs/*/*/events.jsonl; do sleep 0.1; done
ip link set lo up
wait $master
kill $worker
"""


@pytest.mark.soak
@pytest.mark.parametrize("step_s", [0.002, 3.0], ids=["busy", "idle"])
def test_a_link_that_is_cut_in_a_namespace(step_s: float, undisturbed: Undisturbed, tmp_path: Path) -> None:
    """Packets vanish, no FIN, no RST, with data on its way or none: lost within 6 s, back when the link is."""
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"):
        pytest.skip("needs root, unshare and ip: a network namespace")
    if subprocess.run(["unshare", "-n", "ip", "link", "set", "lo", "up"], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody make a network namespace")
    for name in ("chaos.toml", "busy.py"):
        shutil.copy(undisturbed.folder / name, tmp_path)
    few = "--set rounds=4 --set clients.per_round=1 --set local.steps=1" if step_s > 1 else ""
    script = _IN_NAMESPACE.format(python=sys.executable, set=f"--set algorithm.step_s={step_s} {few}")
    done = subprocess.run(["unshare", "-n", "sh", "-c", script], cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 0, (tmp_path / "master.out").read_text()[-2000:]
    (run,) = Finished.all_in(tmp_path / "runs").values()
    assert run.events("WorkerLost")
    assert run.events("WorkerReturned")
    if not few:
        undisturbed.must_be(run)
