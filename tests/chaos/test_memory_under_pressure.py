"""A worker that stops reading costs the master no memory beyond three models and a quarter."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from tests.chaos.conftest import resident_bytes
from tests.conftest import Daemons, Finished, until

pytestmark = [pytest.mark.net, pytest.mark.chaos, pytest.mark.soak, pytest.mark.timeout(240)]

HIDDEN = 140_000
MODEL_BYTES = 4 * (64 * HIDDEN + HIDDEN + 10 * HIDDEN + 10)


class Peak:
    """The most a process has held since this began."""

    def __init__(self, pid: int) -> None:
        self.bytes = resident_bytes(pid)
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> int:
        self._over.set()
        self._thread.join()
        return self.bytes

    def _watch(self) -> None:
        while not self._over.wait(0.02):  # between two looks
            self.bytes = max(self.bytes, resident_bytes(self._pid))


def test_a_worker_that_stops_reading_grows_no_memory(daemons: Daemons, folder: Path, tmp_path: Path) -> None:
    """A model of 42 MB, three workers, one stopped in mid-run: what the master holds beside its steady state."""
    workers = [daemons.worker(tmp_path) for _ in range(3)]
    daemons.listening(*workers)
    settings = (
        f"model={{name='mlp', hidden=[{HIDDEN}]}}",
        "algorithm={name='fedavg'}",
        "uplink={name='identity'}",
        "server.optimizer={name='sgd', lr=1.0}",
        "local={steps=1, batch_size=8, optimizer={name='sgd', lr=0.01}}",
        "clients={total=60, per_round=12}",
        "evaluate={metrics=[]}",
        "checkpoint.every=1000",
        "rounds=14",
        "execution={cohort=2}",
    )
    options = ("--devices", "none", "--workers", ",".join(worker.address for worker in workers))
    master = daemons.master(
        folder / "chaos.toml",
        *options,
        "--runs-dir",
        str(tmp_path / "runs"),
        *(word for text in settings for word in ("--set", text)),
        cwd=folder,
    )

    def rounds_done() -> int:
        runs = Finished.all_in(tmp_path / "runs").values()
        return sum(len(run.events("RoundFinished")) for run in runs)

    master.until(lambda: rounds_done() >= 3, "the third round")
    steady = Peak(master.pid)
    master.until(lambda: rounds_done() >= 6, "the sixth round")
    steady_bytes = steady.stop()
    pressed = Peak(master.pid)
    workers[0].signal(signal.SIGSTOP)
    try:
        (run,) = Finished.all_in(tmp_path / "runs").values()
        master.until(lambda: run.events("WorkerLost"), "the loss of the one that reads nothing")
        done = rounds_done()
        until(lambda: rounds_done() >= done + 2, "two more rounds")
    finally:
        pressed_bytes = pressed.stop()
        workers[0].signal(signal.SIGCONT)
    assert master.ended() == 0, master.said[-2000:]
    grown = pressed_bytes - steady_bytes
    print(f"model {MODEL_BYTES / 1e6:.0f} MB, steady {steady_bytes / 1e6:.0f} MB, grown by {grown / 1e6:.0f} MB")
    assert grown <= 3.75 * MODEL_BYTES
