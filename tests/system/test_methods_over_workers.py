"""Every method ends with the same bytes on the reference, in local threads, and on workers of which some are killed.

One sweep with a run a method: compressed where it may be, with partial participation where it may have it, stochastic
gradients, client memories. The deterministic kill is in the middle of a round of a method with memory and shifts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from tests.conftest import Daemons, Finished, Process, until
from tests.system.conftest import Gates

pytestmark = [
    *(pytest.mark.net, pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(300)),
    pytest.mark.xdist_group("methods"),
]

RANDK, TOPK = {"name": "randk", "k": "30%"}, {"name": "topk", "k": 4}
NATURAL = {"name": "compose", "of": [{"name": "natural"}, {"name": "randk", "k": "50%"}]}
BEFORE: dict[str, dict[str, Any]] = {
    "fedavg": {"algorithm": {"name": "fedavg"}, "uplink": {"name": "qsgd", "s": 6}},
    "fedprox": {"algorithm": {"name": "fedprox", "mu": 0.5}, "uplink": {"name": "natural"}},
    "fednova": {"algorithm": {"name": "fednova"}, "uplink": RANDK},
    "dcgd": {"algorithm": {"name": "dcgd"}, "uplink": RANDK},
    "ef14": {"algorithm": {"name": "ef14"}, "uplink": TOPK},
    "diana": {"algorithm": {"name": "diana"}, "uplink": NATURAL},
    "cofig": {"algorithm": {"name": "cofig", "shift_init": "gradient"}, "uplink": RANDK},
}
GATED = {"gated": {"algorithm": {"name": "gated_diana.py"}, "uplink": RANDK}}
AFTER: dict[str, dict[str, Any]] = {
    "frecon": {"algorithm": {"name": "frecon"}, "uplink": RANDK},
    "marina": {"algorithm": {"name": "marina", "p": 0.4}, "uplink": RANDK},
    "pp-marina": {"algorithm": {"name": "pp-marina", "p": 0.2}, "uplink": RANDK},
    "ef21": {"algorithm": {"name": "ef21"}, "uplink": TOPK, "clients": {"total": 12, "per_round": 12}},
    "ef21-pp": {"algorithm": {"name": "ef21-pp", "g0": "compressed"}, "uplink": TOPK},
    "scaffold": {"algorithm": {"name": "scaffold", "option": 1}, "uplink": RANDK},
    "scaffold-two": {"algorithm": {"name": "scaffold", "option": 2}},
    "gradskip": {"algorithm": {"name": "gradskip", "q": 0.9}, "clients": {"total": 12, "per_round": 12}},
}
LEAKY = {"leaky": {"algorithm": {"name": "leaky.py"}, "uplink": RANDK}}
METHODS = [*BEFORE, *GATED, *AFTER]

GATED_DIANA = '''
import os, time
from dataclasses import dataclass
from pathlib import Path
from algorithms.diana import Diana

@dataclass(frozen=True)
class GatedDiana(Diana):
    """DIANA whose clients of round 3 wait at a gate."""

    def local_gradient(self, client, x, s):
        gate = Path(os.environ.get("FLSPAN_TEST_GATES", "/nonexistent"), f"diana-{client.round}")
        if gate.exists():
            gate.with_name(f"{gate.name}.held-by-{os.getpid()}.{client.id}").touch()
            while gate.exists():
                time.sleep(0.01)
        return client.gradient(x)
'''
LEAKY_DCGD = '''
import os
from dataclasses import dataclass
from algorithms.dcgd import DCGD

@dataclass(frozen=True)
class Leaky(DCGD):
    """DCGD whose numbers depend on the process that computes them."""

    def local_gradient(self, client, x, s):
        return client.gradient(x) * (1.0 + 1e-6 * (os.getpid() % 1000))
'''


def experiment(folder: Path) -> Path:
    """The file, and the two methods beside it."""
    tables = {
        "name": "methods",
        "rounds": 4,
        "seed": 11,
        "data": {"name": "quadratic", "d": 20, "L": 1.0, "mu": 0.1, "samples_per_client": 12, "spectrum": "f"},
        "model": {"name": "linear", "loss": "mse"},
        "clients": {"total": 12, "per_round": 7},
        "local": {"steps": 2, "gradient": "nice", "tau": 5, "optimizer": {"name": "sgd", "lr": 0.1}},
        "execution": {"cohort": 2},
        "evaluate": {"metrics": ["f"], "every": 4},
        "run": [{"label": label, **run} for label, run in (BEFORE | GATED | AFTER | LEAKY).items()],
    }
    (folder / "gated_diana.py").write_text(GATED_DIANA)
    (folder / "leaky.py").write_text(LEAKY_DCGD)
    (folder / "methods.toml").write_text(tomli_w.dumps(tables))
    return folder / "methods.toml"


@dataclass
class Story:
    """The runs, by the way they were run and the method; and who was killed when."""

    runs: dict[str, dict[str, Finished]]
    victim: Process


@pytest.fixture(scope="module")
def story(module_daemons: Daemons, gates: Gates, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Runs the sweep three ways; the third with a kill in mid-round, and another whenever it comes."""
    folder, elsewhere = tmp_path_factory.mktemp("methods"), tmp_path_factory.mktemp("elsewhere")
    file = experiment(folder)

    def start(way: str, *options: str) -> Process:
        return module_daemons.master(file, "--runs-dir", str(folder / way), *options, cwd=folder)

    workers = [module_daemons.worker(elsewhere, env=gates.env) for _ in range(2)]
    others = [start("reference", "--reference"), start("threads", "--devices", "cpu", "--threads-per-device", "3")]
    module_daemons.listening(*workers)
    gates.close("diana", 3)
    master = start("killed", "--devices", "none", "--workers", ",".join(worker.address for worker in workers))
    until(lambda: all(gates.is_holding(w.pid, "diana", 3) for w in workers), "both workers at the gate")
    victim = workers[0]
    victim.kill()
    workers[0] = module_daemons.worker(elsewhere, port=victim.port, env=gates.env)
    gated = Finished.all_in(folder / "killed")["gated"]
    until(partial(gated.events, "WorkerReturned"), "the return of the worker")
    gates.open("diana", 3)
    until(lambda: "marina" in Finished.all_in(folder / "killed"), "a later run")
    workers[1].kill()
    module_daemons.worker(elsewhere, port=workers[1].port, env=gates.env)
    for process in (master, *others):
        assert process.ended() == 0, process.said[-3000:]
    return Story({way: Finished.all_in(folder / way) for way in ("reference", "threads", "killed")}, victim)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", ["threads", "killed"])
def test_ends_with_the_bytes_of_the_reference(story: Story, way: str, method: str) -> None:
    """Neither threads nor workers, kills and restarts change a bit of the model, nor a bit of the count."""
    found, expected = story.runs[way][method], story.runs["reference"][method]
    assert found.model_sha256 == expected.model_sha256
    for name in ("f", "bits_up", "bits_down", "oracle_calls", "direction_norm"):
        assert found.metrics[-1][name] == expected.metrics[-1][name]


def test_methods_differ(story: Story) -> None:
    """So the equalities compare something: no two methods end alike, but for the gated one, which is no other."""
    runs = story.runs["reference"]
    assert len({runs[method].model_sha256 for method in METHODS}) == len(METHODS)
    assert all(runs[method].metrics[-1]["f"] < runs[method].metrics[0]["f"] for method in METHODS)


def test_a_method_that_leaks_is_told(story: Story) -> None:
    """A method whose numbers depend on the process ends differently: the comparison can fail."""
    ends = {way: runs["leaky"].model_sha256 for way, runs in story.runs.items()}
    assert len(set(ends.values())) > 1


def test_the_kill_was_in_mid_round(story: Story) -> None:
    """The victim held a task of round 3, was lost and returned, and every task was counted once."""
    seen = story.runs["killed"]["gated"].events("TaskFinished", "WorkerLost", "WorkerReturned")
    kinds = [event["event"] for event in seen]
    lost = kinds.index("WorkerLost")
    assert seen[lost]["name"] == story.victim.address
    assert "WorkerReturned" in kinds[lost:]
    assert {event["round"] for event in seen[:lost] if event["event"] == "TaskFinished"} == {1, 2}
    tasks = [(event["round"], event["task"]) for event in seen if event["event"] == "TaskFinished"]
    assert sorted(tasks) == [(round, task) for round in (1, 2, 3, 4) for task in range(4)]
