"""A master that is stopped or killed in mid-round, and started again with the same command: nothing but time is lost.

One experiment of three runs (hers/interrupted.toml) meets a SIGKILL in the first, a SIGTERM in the second and a
SIGKILL in the third, each while a client of round 5 is at work; a master in this process runs it undisturbed.
"""

from __future__ import annotations

import asyncio
import io
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fl_core.experiment.reading import read_experiments
from master.daemon import Master
from tests.conftest import Daemons, Finished, Process
from tests.system.conftest import EXACT, Gates, master_options

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(400)]

VARIANTS = ("momentum", "adam", "stateful")


@dataclass
class Story:
    """The two ways the experiment was run, and how each start of the disturbed one ended."""

    undisturbed: dict[str, Finished]
    disturbed: dict[str, Finished]
    exit_codes: list[int] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    checkpoints: dict[str, list[str]] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def story(module_daemons: Daemons, make_her_folder: Callable[[], Path], gates: Gates) -> Story:
    """Four starts of the same command."""
    hers = make_her_folder()
    told = Story({}, {})

    def start(env: dict[str, str] | None = None) -> Process:
        options = ("--devices", "cpu", "--threads-per-device", "1", "--runs-dir", str(hers / "disturbed"))
        return module_daemons.master(hers / "interrupted.toml", *options, cwd=hers, env=env)

    def disturb(variant: str, number: signal.Signals, round: int = 5) -> None:
        gates.close(variant, round)
        master = start(gates.env)
        master.until(partial(gates.is_holding, master.pid, variant, round), f"round {round} of {variant}")
        run = Finished.all_in(hers / "disturbed")[variant]
        master.until(partial(run.events, "CheckpointSaved"), "the checkpoint of round 3")
        master.signal(number)
        if number != signal.SIGKILL:
            master.until(partial(run.events, "RunFinished"), "the end of the run")  # while its client is still at work
        gates.open(variant, round)
        told.exit_codes.append(master.ended())
        told.outputs.append(master.said)
        when = f"{variant} {number.name}"
        told.checkpoints[when] = sorted(path.stem for path in run.path.glob("checkpoints/*.safetensors"))
        if number != signal.SIGKILL:
            told.summaries[when], told.models[when] = run.summary, run.model_sha256

    disturb("momentum", signal.SIGKILL)
    disturb("adam", signal.SIGTERM)
    disturb("stateful", signal.SIGKILL)
    last = start()
    told.exit_codes.append(last.ended())
    told.outputs.append(last.said)
    options = master_options(hers / "undisturbed", devices="cpu")
    assert asyncio.run(Master(options, io.StringIO()).run(read_experiments(hers / "interrupted.toml"))) == 0
    told.undisturbed, told.disturbed = Finished.all_in(hers / "undisturbed"), Finished.all_in(hers / "disturbed")
    return told


def test_exit_codes_say_how_it_ended(story: Story) -> None:
    """128 + the signal's number when everything is saved, 0 when all runs are finished."""
    assert story.exit_codes == [-signal.SIGKILL, 143, -signal.SIGKILL, 0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_disturbed_run_ends_with_the_bytes_of_the_undisturbed_one(story: Story, variant: str) -> None:
    """Model, optimizer state, server state and memories come back as they were, to the last bit."""
    assert story.disturbed[variant].model_sha256 == story.undisturbed[variant].model_sha256


@pytest.mark.parametrize("variant", VARIANTS)
def test_metrics_have_each_round_once_with_the_same_numbers(story: Story, variant: str) -> None:
    """What a kill cut off is measured again, what a stop saved is not; cumulative counts go on where they were."""
    lines = story.disturbed[variant].metrics
    assert [line["round"] for line in lines] == list(range(9))
    expected = [{name: line[name] for name in EXACT if name in line} for line in story.undisturbed[variant].metrics]
    assert [{name: line[name] for name in EXACT if name in line} for line in lines] == expected
    elapsed = [line["elapsed_s"] for line in lines[1:]]
    assert elapsed == sorted(elapsed)
    assert elapsed[-1] >= sum(line["round_s"] for line in lines[1:]) - 1e-6


def test_a_stop_saves_everything(story: Story) -> None:
    """The rounds done so far are in the summary, the model and a checkpoint, though none was due after them."""
    when = "adam SIGTERM"
    assert story.summaries[when]["reason"] == "stopped"
    assert story.summaries[when]["rounds"] == 4
    assert story.checkpoints[when][-1] == "round-00000004"
    assert story.models[when] not in {run.model_sha256 for run in story.undisturbed.values()}


def test_a_run_goes_on_where_it_was_saved(story: Story) -> None:
    """After a SIGKILL from the last checkpoint, after a stop from the very round; nothing done is done again."""
    first_rounds = {
        variant: [event["first_round"] for event in run.events("RunStarted")]
        for variant, run in story.disturbed.items()
    }
    assert first_rounds == {"momentum": [1, 4], "adam": [1, 5], "stateful": [1, 4]}
    assert story.checkpoints["momentum SIGKILL"] == ["round-00000003"]


def test_a_finished_run_is_skipped(story: Story) -> None:
    """And says so."""
    for variant in ("momentum", "adam"):
        run = story.disturbed[variant]
        assert f"run {run.path.name} is finished already" in story.outputs[-1]
        assert len(run.events("RunFinished")) == (1 if variant == "momentum" else 2)
