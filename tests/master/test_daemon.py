"""The master daemon in this process, with local threads: its exit codes, its runs one after the other, its folders."""

from __future__ import annotations

import asyncio
import gc
import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import safetensors.torch
import torch

from fl_core.execution.cohort import FOREIGN_DRAWS
from fl_core.experiment.reading import read_experiments
from fl_core.experiment.schema import Experiment, SourceFile
from fl_core.problem import Problem
from fl_core.reference import run_reference
from fl_core.session import Session, open_session
from master.daemon import Master
from master.options import MasterOptions
from master.round_loop import RoundLoop
from protocol.errors import InputError
from tests.conftest import Finished, small_experiment

pytestmark = pytest.mark.timeout(60)


class Bench:
    """Starts masters on one folder of runs."""

    def __init__(self, folder: Path) -> None:
        self.runs = folder / "runs"
        self.out = io.StringIO()

    def master(self, **options: Any) -> Master:
        given: dict[str, Any] = {
            "workers": (),
            "devices": "cpu",
            "threads_per_device": 1,
            "reference": False,
            "data_root": None,
            "runs_dir": self.runs,
            "resume": True,
            "dashboard": False,
            "secret": None,
            "lz4": False,
            "command_line": ("flmaster", "t.toml"),
        }
        return Master(MasterOptions(**(given | options)), self.out)

    async def run(self, *experiments: Experiment, **options: Any) -> int:
        return await self.master(**options).run(experiments)

    @property
    def said(self) -> str:
        return self.out.getvalue()

    @property
    def finished(self) -> dict[str, Finished]:
        return Finished.all_in(self.runs)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Its folder of runs is not there yet."""
    return Bench(tmp_path)


async def test_a_run_leaves_its_folder(bench: Bench) -> None:
    """Everything that design.md names is there: it can be read, loaded, and run again as it is."""
    experiment = small_experiment()
    assert await bench.run(experiment) == 0
    run = bench.finished["fedavg"]
    names = {path.name for path in run.path.iterdir()}
    assert names == {
        *("experiment.toml", "environment.json", "metrics.jsonl", "events.jsonl", "log.txt"),
        *("checkpoints", "execution.json", "model.safetensors", "summary.json"),
    }
    assert [line["round"] for line in run.metrics] == [0, 1, 2, 3]
    assert run.summary["reason"] == "finished"
    assert run.summary["metrics"]["f"] == run.metrics[-1]["f"]
    (again,) = read_experiments(run.path / "experiment.toml")
    assert again.digest() == experiment.digest()
    assert json.loads((run.path / "environment.json").read_text())[0]["command_line"] == ["flmaster", "t.toml"]
    session = open_session(experiment)
    *_, (server, _) = run_reference(session)
    model = session.problem.oracle("cpu").model
    model.load_state_dict(safetensors.torch.load_file(run.path / "model.safetensors"), strict=False)
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert torch.equal(flat, server.x)


def test_a_model_is_stored_by_the_names_of_its_parameters() -> None:
    """Each with its own shape, cut from x in order."""
    model = {"name": "mlp", "hidden": [2], "loss": "mse", "dtype": "float64"}
    session = open_session(small_experiment(model=model))
    x = torch.arange(session.problem.d, dtype=torch.float64)
    found = session.problem.named_parameters(x)
    assert {name: tuple(t.shape) for name, t in found.items()} == {
        "1.weight": (2, 3),
        "1.bias": (2,),
        "3.weight": (1, 2),
        "3.bias": (1,),
    }
    assert torch.equal(torch.cat([t.flatten() for t in found.values()]), x)


async def test_the_reference_tells_what_a_run_tells(bench: Bench, tmp_path: Path) -> None:
    """`--reference` leaves the same folder: the same bytes, the same numbers, of the same types."""
    assert await bench.run(small_experiment(), reference=True, runs_dir=tmp_path / "reference") == 0
    assert await bench.run(small_experiment()) == 0
    reference, run = Finished.all_in(tmp_path / "reference")["fedavg"], bench.finished["fedavg"]
    assert reference.model_sha256 == run.model_sha256
    times = {"round_s", "elapsed_s"}
    for expected, found in zip(reference.metrics, run.metrics, strict=True):
        assert {k: v for k, v in found.items() if k not in times} == {
            k: pytest.approx(v, rel=1e-12) for k, v in expected.items() if k not in times
        }
        assert {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in expected.items()}


@pytest.mark.parametrize("reference", [False, True])
async def test_a_run_ends_early_as_its_file_says(bench: Bench, reference: bool) -> None:
    """At the first evaluation at or below the threshold; it is finished, not stopped."""
    experiment = small_experiment(rounds=50, stop={"f": 0.9 * await _first_f(bench)})
    assert await bench.run(experiment, reference=reference) == 0
    run = bench.finished["fedavg"]
    values = [line["f"] for line in run.metrics]
    assert run.summary["reason"] == "finished"
    assert run.summary["rounds"] < 50
    assert values[-1] <= experiment.stop["f"] < values[-2]


async def _first_f(bench: Bench) -> float:
    await bench.run(small_experiment(rounds=1, name="first"))
    value: float = Finished.all_in(bench.runs)["fedavg"].metrics[0]["f"]
    return value


DIVERGING = """
from algorithms.fedavg import FedAvg

class Diverging(FedAvg):
    def server_gradient(self, server, replies):
        return super().server_gradient(server, replies) * (float("nan") if server.round == 2 else 1)
"""


@pytest.mark.parametrize("reference", [False, True])
async def test_a_run_that_diverges_ends_without_an_evaluation(bench: Bench, reference: bool) -> None:
    """NaN in a round's own metrics is enough: exit code 1, and the round is named."""
    source = msgspec.structs.asdict(SourceFile.of("algorithm", "diverging.py", DIVERGING))
    experiment = small_experiment(
        rounds=50, algorithm={"name": "diverging.py"}, sources=[source], evaluate={"every": 50, "metrics": []}
    )
    assert await bench.run(experiment, reference=reference) == 1
    summary = bench.finished["diverging"].summary
    assert (summary["reason"], summary["rounds"]) == ("failed", 2)
    assert summary["error"] == "round 2: direction_norm is NaN: the method diverges; try a smaller step size"


async def test_a_finished_run_is_skipped_unless_it_is_to_run_again(bench: Bench) -> None:
    """By its digest: the same experiment is recognised, another seed is another run."""
    await bench.run(small_experiment())
    folder = bench.finished["fedavg"].path
    before = (folder / "events.jsonl").read_bytes()
    assert await bench.run(small_experiment()) == 0
    assert f"run {folder.name} is finished already" in bench.said
    assert (folder / "events.jsonl").read_bytes() == before
    assert await bench.run(small_experiment(), resume=False) == 0
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 4
    assert len(Finished(folder).events("RunStarted")) == 2
    assert await bench.run(small_experiment(seed=1)) == 0
    assert len(list(bench.runs.glob("*/*/summary.json"))) == 2


HERS = """
from dataclasses import dataclass
from algorithms.fedavg import FedAvg

@dataclass(frozen=True)
class Hers(FedAvg):
    def local_gradient(self, client, x, s):
        return client.gradient(x) * (1 / (client.round - 2))
"""


def her_experiment() -> Experiment:
    """It raises in round 2."""
    source = msgspec.structs.asdict(SourceFile.of("algorithm", "hers.py", HERS))
    return small_experiment(algorithm={"name": "hers.py"}, sources=[source])


@pytest.mark.parametrize("reference", [False, True])
async def test_a_run_that_fails_leaves_the_others_alone(bench: Bench, reference: bool) -> None:
    """Exit code 1, its error in log and summary with her file and line; the next run of the file runs."""
    assert await bench.run(her_experiment(), small_experiment(), reference=reference) == 1
    runs = bench.finished
    assert runs["fedavg"].summary["reason"] == "finished"
    assert runs["hers"].summary["reason"] == "failed"
    assert runs["hers"].summary["rounds"] == 1
    assert "hers.py:8: ZeroDivisionError" in runs["hers"].summary["error"]
    assert "hers.py:8: ZeroDivisionError" in bench.said
    assert (runs["hers"].path / "hers.py").read_text() == HERS


async def test_a_failed_run_is_tried_again(bench: Bench) -> None:
    """It is unfinished: the same command goes on after its last good round, and fails as before."""
    assert await bench.run(her_experiment()) == 1
    assert await bench.run(her_experiment()) == 1
    run = bench.finished["hers"]
    assert [event["first_round"] for event in run.events("RunStarted")] == [1, 2]
    assert [line["round"] for line in run.metrics] == [0, 1]


async def test_a_stop_ends_the_sweep(bench: Bench) -> None:
    """128 + the signal's number; the run under way is saved, those after it are not begun."""
    master = bench.master()
    running = asyncio.create_task(master.run([small_experiment(rounds=10**6), small_experiment()]))
    while not (bench.finished and len(bench.finished["fedavg"].events("RoundFinished")) > 2):
        await asyncio.sleep(0.01)  # between two looks
    master.stop("the test said so", 15)
    assert await running == 143
    (run,) = bench.finished.values()
    assert run.summary["reason"] == "stopped"
    assert (run.path / "checkpoints" / f"round-{run.summary['rounds']:08d}.safetensors").exists()
    assert "stopping: the test said so" in bench.said


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"devices": "none"}, "nobody is there to run clients"),
        ({"workers": ("127.0.0.1:7000", "127.0.0.1:7000")}, "twice"),
        ({"workers": ("127.0.0.1",)}, "write host:port"),
        ({"devices": "none", "workers": ("192.0.2.1:7000",)}, "--secret-file"),
    ],
)
async def test_a_cluster_that_cannot_be_is_the_user_s_mistake(bench: Bench, options: Any, expected: str) -> None:
    """And no run waits for it for ever."""
    with pytest.raises(InputError, match=expected):
        await bench.run(small_experiment(), **options)


async def test_a_folder_in_use_is_not_shared(bench: Bench) -> None:
    """Two masters that run the same experiment into the same folder would write over each other."""
    first = asyncio.create_task(bench.run(small_experiment(rounds=10**6)))
    while not bench.finished:
        await asyncio.sleep(0.01)  # between two looks
    with pytest.raises(InputError, match="another flmaster is writing"):
        await bench.run(small_experiment(rounds=10**6))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_nothing_of_a_run_s_data_is_left_to_the_garbage_collector(bench: Bench) -> None:
    """The runs of a sweep follow each other in one process: each lets go of what it has loaded."""
    gc.disable()
    gc.freeze()  # problems of other tests
    try:
        assert await bench.run(small_experiment(seed=1), small_experiment(seed=2)) == 0
        assert not [each for each in gc.get_objects() if isinstance(each, Problem | Session | RoundLoop)]
    finally:
        gc.unfreeze()
        gc.enable()


async def test_a_method_that_draws_from_numpy_s_generator_is_told_of(bench: Bench) -> None:
    """Once, in the lines of the run: its numbers would differ from start to start."""
    text = (
        "import numpy\nfrom dataclasses import dataclass\nfrom algorithms.fedavg import FedAvg\n\n"
        "@dataclass(frozen=True)\nclass Draws(FedAvg):\n"
        "    def local_gradient(self, client, x, s):\n        return client.gradient(x) * numpy.random.rand()\n"
    )
    source = msgspec.structs.asdict(SourceFile.of("algorithm", "draws.py", text))
    FOREIGN_DRAWS.clear()
    assert await bench.run(small_experiment(algorithm={"name": "draws.py"}, sources=[source])) == 0
    FOREIGN_DRAWS.clear()
    assert bench.said.count("NumPy's or Python's global generator was drawn from") == 1
