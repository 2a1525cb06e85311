"""`fl_core.run` as a notebook calls it: same bytes as flmaster, inside an event loop, with results as records."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import threading
from pathlib import Path

import pytest
import torch

from fl_core import run
from fl_core.errors import InputError
from fl_core.reference import run_reference
from fl_core.session import open_session
from master.observers.metrics_jsonl import read_events
from tests.conftest import small_experiment

pytestmark = pytest.mark.timeout(60)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether the same tensors have the same bytes."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


async def test_it_runs_inside_a_running_event_loop_and_ends_with_the_references_bytes(tmp_path: Path) -> None:
    """As in Jupyter, where a loop runs already; on the loop's own thread, and no thread setting is left changed."""
    experiment = small_experiment()
    threads = torch.get_num_threads()
    (result,) = run(experiment, runs_dir=tmp_path, devices="cpu", threads_per_device=1)
    assert asyncio.get_running_loop().is_running()
    assert torch.get_num_threads() == threads
    session = open_session(experiment)
    *_, (server, _) = run_reference(session)
    assert same(result.model, session.problem.named_parameters(server.x))
    assert result.status == "finished"
    assert [record["round"] for record in result.metrics] == [0, 1, 2, 3]
    assert result.summary["metrics"]["f"] == result.metrics[-1]["f"]
    assert result.settings["clients.total"] == experiment.clients.total


def test_a_second_call_takes_what_is_there(tmp_path: Path) -> None:
    """The folder is flmaster's: a finished run is read, not run again."""
    out = io.StringIO()
    (first,) = run(small_experiment(), runs_dir=tmp_path, devices="cpu", threads_per_device=1, log=out)
    assert "finished" in out.getvalue()
    written = (first.folder / "summary.json").stat().st_mtime_ns
    (second,) = run(small_experiment(), runs_dir=tmp_path, devices="cpu", threads_per_device=1)
    assert second.metrics == first.metrics
    assert (first.folder / "summary.json").stat().st_mtime_ns == written


def test_without_a_folder_the_model_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`runs_dir=None` leaves nothing on disk, and the records and the model are all there."""
    monkeypatch.chdir(tmp_path)
    results = run(small_experiment(), {"sweep.seed": [1, 2]}, runs_dir=None, reference=True)
    assert not list(tmp_path.iterdir())
    assert not any(result.folder.exists() for result in results)
    assert [result.settings["seed"] for result in results] == [1, 2]
    assert results.varying() == ["seed"]
    assert not same(results[0].model, results[1].model)


def test_a_run_that_fails_is_a_result_and_a_warning(tmp_path: Path) -> None:
    """The other runs of the sweep are not lost, and the failure is not silent."""
    rates = {"local.optimizer.lr": 1e30, "rounds": 8}
    with pytest.warns(RuntimeWarning, match="failed: .*NaN"):
        (result,) = run(small_experiment(), rates, runs_dir=tmp_path, reference=True)
    assert result.status == "failed"
    assert "NaN" in result.error


def test_an_interrupt_saves_and_the_same_call_goes_on(tmp_path: Path) -> None:
    """The stop button of a notebook is Ctrl-C: it reaches the main thread, and the rounds done are kept."""
    rounds = 20000
    out = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        run(small_experiment(), {"rounds": rounds}, runs_dir=tmp_path, devices="cpu", threads_per_device=1, log=out)
    (events,) = tmp_path.rglob("events.jsonl")
    ended = [event for event in read_events(events) if type(event).__name__ == "RunFinished"]
    assert [event.reason for event in ended] == ["stopped"]
    assert list(events.parent.glob("checkpoints/*"))
    assert not [thread for thread in threading.enumerate() if thread.name == "flspan master" and thread.is_alive()]


class Interrupting(io.StringIO):
    """Sends Ctrl-C to this process when the log says that the fifth round was finished."""

    sent = False

    def write(self, text: str) -> int:
        if "round 5/" in text and not self.sent:
            self.sent = True
            os.kill(os.getpid(), signal.SIGINT)
        return super().write(text)


def test_what_cannot_run_is_an_error_here(tmp_path: Path) -> None:
    """It is raised where the call stands, not in the thread."""
    with pytest.raises(InputError, match="nobody is there to run clients"):
        run(small_experiment(), runs_dir=tmp_path, devices="none")
    with pytest.raises(InputError, match="parallel_runs must be from 1 to 64"):
        run(small_experiment(), runs_dir=tmp_path, parallel_runs=0)


@pytest.mark.net
def test_spawned_workers_leave_the_numbers_alone(tmp_path: Path) -> None:
    """Two workers over TCP, from a thread that is not the main one: the same bytes again."""
    (here,) = run(small_experiment(), runs_dir=tmp_path / "a", devices="cpu", threads_per_device=1)
    (there,) = run(small_experiment(), runs_dir=tmp_path / "b", spawn=2)
    assert same(here.model, there.model)
