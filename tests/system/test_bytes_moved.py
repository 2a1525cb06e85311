"""What crosses the socket: a model once, a sum instead of its rows, nothing twice. Counted on what a proxy passes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import tomli_w

from protocol.messages import Broadcast, Hello, Message, Proof, Result, Shard, Task
from tests.conftest import Daemons, Finished
from tests.system.recording_proxy import RecordingProxy
from tests.system.test_bytes_of_methods import received

pytestmark = [pytest.mark.net, pytest.mark.timeout(120), pytest.mark.xdist_group("bytes moved")]

D, N, COHORT, ROUNDS, WIDTH = 12, 10, 5, 4, 8
VECTOR = D * WIDTH
HERS = '''
import torch
from algorithms.fedavg import FedAvg

class Rows(FedAvg):
    """Her own weights: from round 3 on it reads the rows."""
    def server_gradient(self, server, replies):
        if server.round < 3:
            return -replies.mean("delta")
        return -replies.weighted_mean("delta", [1.0 + i for i in replies.clients])
'''


class Moved:
    """Messages by run and round, with the bytes of their buffers."""

    def __init__(self, streams: list[bytes], opening: Any) -> None:
        self.messages: list[tuple[Message, list[np.ndarray]]] = []
        for stream in streams:
            self.messages += received(stream, *([opening] if opening else []))

    def bytes_of(self, kind: type[Message], run: str) -> dict[int, int]:
        """Round -> bytes of all buffers of these messages."""
        found: Counter[int] = Counter()
        for message, buffers in self.messages:
            if isinstance(message, kind) and message.run == run:  # type: ignore[attr-defined]  # these have one
                found[getattr(message, "round", 0)] += sum(buffer.nbytes for buffer in buffers)
        return dict(found)


@pytest.fixture(scope="module")
def moved(module_daemons: Daemons, tmp_path_factory: pytest.TempPathFactory) -> tuple[Moved, Moved, dict[str, str]]:
    """(master to worker, worker to master, method -> run) of four runs on one worker."""
    folder = tmp_path_factory.mktemp("moved")
    worker = module_daemons.worker(folder)
    module_daemons.listening(worker)
    proxy = RecordingProxy(worker.port)
    (folder / "rows.py").write_text(HERS)
    experiment = {
        "name": "moved",
        "rounds": ROUNDS,
        "seed": 5,
        "data": {"name": "quadratic", "d": D, "L": 1.0, "mu": 0.2, "samples_per_client": 4, "spectrum": "f"},
        "model": {"name": "linear", "loss": "mse", "dtype": "float64"},
        "clients": {"total": N},
        "local": {"steps": 1, "gradient": "full", "optimizer": {"name": "sgd", "lr": 0.1}},
        "execution": {"cohort": COHORT},
        "evaluate": {"metrics": []},
        "run": [
            {"label": "fedavg", "algorithm": {"name": "fedavg"}},
            {"label": "marina", "algorithm": {"name": "marina", "p": 0.000001}},
            {"label": "topk", "algorithm": {"name": "ef21", "g0": "compressed"}, "uplink": {"name": "topk", "k": 3}},
            {"label": "rows", "algorithm": {"name": "rows.py"}},
        ],
    }
    (folder / "moved.toml").write_text(tomli_w.dumps(experiment))
    options = ["--runs-dir", str(folder / "runs"), "--devices", "none", "--workers", f"127.0.0.1:{proxy.port}"]
    master = module_daemons.master(folder / "moved.toml", *options, cwd=folder)
    try:
        assert master.ended(100.0) == 0, master.said[-3000:]
        said = Moved(proxy.settled(), None)
        heard = Moved([bytes(stream) for stream in proxy.heard], (Hello, Proof))
    finally:
        proxy.close()
    return heard, said, {label: run.path.name for label, run in Finished.all_in(folder / "runs").items()}


def test_one_vector_a_cohort_comes_back(moved: tuple[Moved, Moved, dict[str, str]]) -> None:
    """FedAvg reads one sum: both kinds before that is known, then one vector for each cohort of five."""
    _, said, runs = moved
    assert said.bytes_of(Result, runs["fedavg"]) == {1: 2 * 2 * VECTOR} | dict.fromkeys((2, 3, 4), 2 * VECTOR)


def test_a_round_that_needs_rows_gets_them(moved: tuple[Moved, Moved, dict[str, str]]) -> None:
    """Sums, until the method asks for more; that round once more with its rows, and rows from then on."""
    _, said, runs = moved
    assert said.bytes_of(Result, runs["rows"]) == {1: 4 * VECTOR, 2: 2 * VECTOR, 3: (2 + N) * VECTOR, 4: N * VECTOR}


def test_compressed_replies_travel_as_they_are(moved: tuple[Moved, Moved, dict[str, str]]) -> None:
    """Three of twelve numbers and where they stand are less than a sum; beside them go the clients' memories."""
    _, said, runs = moved
    payload = said.bytes_of(Result, runs["topk"])[2] - N * VECTOR
    assert 0 < payload / N < VECTOR / 2


def test_a_memory_does_not_come_back_to_who_made_it(moved: tuple[Moved, Moved, dict[str, str]]) -> None:
    """EF21's g_i goes up with every result, which is what checkpoints hold, and down to another worker only."""
    heard, said, runs = moved
    assert heard.bytes_of(Task, runs["topk"]) == dict.fromkeys(range(1, ROUNDS + 1), 0)
    assert min(said.bytes_of(Result, runs["topk"]).values()) > N * VECTOR


def test_a_model_goes_to_a_worker_once(moved: tuple[Moved, Moved, dict[str, str]]) -> None:
    """x, once a round; MARINA's x_prev is the x of the round before, which is there."""
    heard, _, runs = moved
    for run in ("fedavg", "marina"):
        assert heard.bytes_of(Broadcast, runs[run]) == dict.fromkeys(range(1, ROUNDS + 1), VECTOR), run
    assert heard.bytes_of(Task, runs["fedavg"]) == dict.fromkeys(range(1, ROUNDS + 1), 0)
    assert not any(isinstance(message, Shard) for message, _ in heard.messages)
