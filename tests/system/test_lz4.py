"""lz4 on the wire: only when both sides offer it, only where it pays, and never in the numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Daemons, Finished

pytestmark = [pytest.mark.net, pytest.mark.timeout(120)]

# SCAFFOLD's control variate starts as d = 14,410 zeros, which the first Broadcast carries.
_EXPERIMENT = """
name = "lz4"
rounds = 1
data = { name = "digits", partition = { name = "iid" } }
model = { name = "mlp", hidden = [192] }
clients = { total = 10, per_round = 2 }
local = { steps = 1, batch_size = 10, optimizer = { name = "sgd", lr = 0.1 } }
algorithm = { name = "scaffold" }
evaluate = { metrics = [] }
"""


def _run(daemons: Daemons, folder: Path, address: str, name: str, *options: str) -> tuple[int, str]:
    """Bytes the master sent, and the model's sha256."""
    experiment = folder / "lz4.toml"
    experiment.write_text(_EXPERIMENT)
    runs = folder / name
    wanted = ("--devices", "none", "--workers", address, "--runs-dir", str(runs), *options)
    assert daemons.master(experiment, *wanted, cwd=folder).ended() == 0
    (finished,) = Finished.all_in(runs).values()
    last: dict[str, Any] = finished.metrics[-1]
    return last["wire_bytes_sent"], finished.model_sha256


def test_zeros_are_compressed_where_both_sides_offer_it(daemons: Daemons, tmp_path: Path) -> None:
    """With --lz4 on both sides a broadcast half of zeros shrinks by most of that half; on one side nothing changes."""
    worker = daemons.worker(tmp_path, "--lz4")
    daemons.listening(worker)
    sent, model = _run(daemons, tmp_path, worker.address, "one-side")
    compressed, same_model = _run(daemons, tmp_path, worker.address, "both-sides", "--lz4")
    assert model == same_model
    zeros = 4 * (64 * 192 + 192 + 192 * 10 + 10)
    assert sent > 2 * zeros
    assert sent - compressed > 0.9 * zeros
