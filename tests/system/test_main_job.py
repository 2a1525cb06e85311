"""The main job itself: `flmaster --spawn 2 examples/digits.toml`, as the README has it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Daemons, Finished

pytestmark = [pytest.mark.net, pytest.mark.slow, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]


def seconds(command: list[str]) -> float:
    """How long it takes."""
    started = time.monotonic()
    subprocess.run(command, check=True, timeout=120)
    return time.monotonic() - started


def test_two_workers_learn_the_digits(
    daemons: Daemons, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """At least 93 % of the test set, on real data over real sockets; the first round shows within seconds.

    On the target machine that is 5 s. Three processes import torch for it, so the bound grows with what that costs
    here and now, on cores that the test may not have to itself.
    """
    import_s = seconds([sys.executable, "-c", "import torch"])
    started = time.monotonic()
    options = ("--spawn", "2", "--runs-dir", str(tmp_path / "runs"))
    master = daemons.master(ROOT / "examples" / "digits.toml", *options, cwd=tmp_path)
    master.until(lambda: "\nround 1/" in master.said, "the first round")
    first_round_s = time.monotonic() - started
    assert master.ended(150) == 0
    total_s = time.monotonic() - started
    (run,) = Finished.all_in(tmp_path / "runs").values()
    measured = f"import torch {import_s:.1f} s, first round {first_round_s:.1f} s, whole run {total_s:.1f} s"
    record_property("measured", measured)
    print(measured)
    assert run.metrics[-1]["accuracy"] >= 0.93
    assert run.summary["metrics"]["accuracy"] >= 0.93
    executors = {event["executor"] for event in run.events("TaskFinished")}
    assert len(executors) == 2
    assert "local" not in executors
    assert first_round_s < max(5.0, 4 * import_s), measured
