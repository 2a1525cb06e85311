"""Checkpoints: a run comes back bit for bit, and a file that is not whole is never used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fl_core.memories import ClientMemories
from fl_core.replies import CohortReplies
from fl_core.server import Server
from fl_core.session import open_session
from fl_core.state import Zeros
from master.checkpoint import Checkpoint, DamagedError, keep_two, latest, load
from tests.conftest import small_experiment

TOTALS = {"oracle_calls": 7, "bits_up": 2**53 - 1, "elapsed_s": 0.1}


def server() -> Server:
    """A server whose optimizer has something to remember."""
    optimizer = {"name": "sgd", "lr": 0.5, "momentum": 0.9, "nesterov": True}
    return open_session(small_experiment(server={"optimizer": optimizer})).server()


def step(server: Server, number: int) -> None:
    """A round in which two clients reply with what depends on the round alone."""
    server.begin_round(number)
    delta = torch.full((2, 3), 0.1 * number, dtype=torch.float64)
    server.finish_round([CohortReplies((0, 1), (3, 4), {"delta": delta})])


def memories() -> ClientMemories:
    """Two fields a client: a vector and a number."""
    return ClientMemories({"h": Zeros(), "count": 0}, 3, torch.float64)


def rows(value: float) -> dict[str, torch.Tensor]:
    """Of two clients."""
    return {"h": torch.full((2, 3), value, dtype=torch.float64), "count": torch.tensor([1, 2])}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with checkpoints after rounds 1, 2 and 3, of which two are kept."""
    running, remembered = server(), memories()
    for number in (1, 2, 3):
        step(running, number)
        remembered.commit((number, number + 5), rows(float(number)))
        Checkpoint.take(running, remembered, TOTALS).save(tmp_path)
    return tmp_path


def test_a_run_goes_on_as_if_it_had_not_been_interrupted(tmp_path: Path) -> None:
    """x, momentum, memories and totals come back, and the next round ends with the same bits."""
    first, remembered = server(), memories()
    for number in (1, 2):
        step(first, number)
    remembered.commit((1, 4), rows(0.3))
    path = Checkpoint.take(first, remembered, TOTALS).save(tmp_path)
    second, recalled, found = server(), memories(), load(path)
    found.restore(second, recalled)
    assert (found.round, found.totals, second.finished_rounds) == (2, TOTALS, 2)
    assert torch.equal(second.x, first.x)
    for name, stack in recalled.gather((0, 1, 4)).items():
        assert torch.equal(stack, remembered.gather((0, 1, 4))[name]), name
    x_after_2 = first.x.clone()
    step(first, 3)
    step(second, 3)
    assert torch.equal(second.x, first.x)
    without_momentum = x_after_2 + 0.5 * 0.3
    assert not torch.allclose(first.x, without_momentum)


def test_what_is_taken_does_not_change_with_the_run() -> None:
    """The next round may begin while a checkpoint is being written."""
    running, remembered = server(), memories()
    step(running, 1)
    remembered.commit((1, 4), rows(0.3))
    taken = Checkpoint.take(running, remembered, TOTALS)
    before = {name: tensor.clone() for name, tensor in taken.tensors.items()}
    step(running, 2)
    remembered.commit((1, 4), rows(0.4))
    assert taken.tensors.keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in taken.tensors.items())


def test_the_last_two_are_kept(saved: Path) -> None:
    """Disk is bounded, and there is always one before the last."""
    assert sorted(path.name for path in saved.iterdir()) == [
        f"round-0000000{number}.{kind}" for number in (2, 3) for kind in ("safetensors", "sha256")
    ]


def truncated(path: Path) -> None:
    """As a power cut may leave it."""
    path.write_bytes(path.read_bytes()[:-1])


def flipped(path: Path) -> None:
    """One bit."""
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    """Nothing left of it."""
    path.write_bytes(b"")


def without_digest(path: Path) -> None:
    """Killed between the two files."""
    path.with_suffix(".sha256").unlink()


def foreign(path: Path) -> None:
    """A sound file of someone else's."""
    content = safetensors.torch.save({"x": torch.zeros(3)})
    path.write_bytes(content)
    path.with_suffix(".sha256").write_text(hashlib.sha256(content).hexdigest(), encoding="ascii")


@pytest.mark.parametrize("damage", [truncated, flipped, empty, without_digest, foreign])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_used(
    saved: Path, damage: Callable[[Path], None]
) -> None:
    """Loudly: the user reads which file it was."""
    newest = saved / "round-00000003.safetensors"
    damage(newest)
    with pytest.raises(DamagedError):
        load(newest)
    found, complaints = latest(saved)
    assert found is not None
    assert found.round == 2
    (complaint,) = complaints
    assert str(newest) in complaint
    assert complaint.endswith("the one before is used")


def test_with_none_left_the_run_starts_anew(saved: Path) -> None:
    """Two damaged ones are two complaints; an empty folder is none."""
    for path in saved.glob("*.safetensors"):
        truncated(path)
    found, complaints = latest(saved)
    assert found is None
    assert len(complaints) == 2
    assert latest(saved / "nothing") == (None, [])


def names(folder: Path) -> list[str]:
    """Of the checkpoints there."""
    return sorted(path.stem for path in folder.glob("*.safetensors"))


def test_a_name_beyond_the_last_one_does_not_last(saved: Path) -> None:
    """Whatever made it useless: the next one that is saved is kept, with the one before it."""
    running, remembered = server(), memories()
    for number in (1, 2):
        step(running, number)
    Checkpoint.take(running, remembered, TOTALS).save(saved)
    assert names(saved) == ["round-00000002"]
    assert sorted(path.suffix for path in saved.iterdir()) == [".safetensors", ".sha256"]
    keep_two(saved, 1)
    assert names(saved) == []


def test_one_ahead_of_the_lines_is_refused(saved: Path) -> None:
    """A resumed run does not make up for lines that are missing."""
    found, complaints = latest(saved, last_line=3)
    assert found is not None
    assert (found.round, complaints) == (3, [])
    found, complaints = latest(saved, last_line=2)
    assert found is not None
    assert found.round == 2
    assert complaints == [
        f"{saved / 'round-00000003.safetensors'} cannot be used: metrics.jsonl ends before its round, at 2; "
        "the one before is used"
    ]
    found, complaints = latest(saved, last_line=1)
    assert found is None
    assert complaints[1].endswith("there is none before it")


def test_it_says_which_data_it_was_computed_with(tmp_path: Path) -> None:
    """One of an older version of flspan says nothing."""
    running, remembered = server(), memories()
    step(running, 1)
    path = replace(Checkpoint.take(running, remembered, TOTALS), data_sha256="ab" * 32).save(tmp_path)
    assert load(path).data_sha256 == "ab" * 32
    text = json.dumps({"numbers": {"round": 1}, "totals": {}})
    content = safetensors.torch.save({"x": torch.zeros(3)}, {"flspan": text})
    path.write_bytes(content)
    path.with_suffix(".sha256").write_text(hashlib.sha256(content).hexdigest(), encoding="ascii")
    assert load(path).data_sha256 == ""


def test_rows_of_both_that_are_kept_stay(tmp_path: Path) -> None:
    """Memories in a file: the older checkpoint is as good after the newer one was resumed from and went on."""
    file = tmp_path / "memories"

    def opened() -> ClientMemories:
        return ClientMemories({"h": Zeros(), "count": 0}, 3, torch.float64, file)

    running, remembered = server(), opened()
    for number in (1, 2):
        step(running, number)
        remembered.commit((0, 1), rows(float(number)))
        Checkpoint.take(running, remembered, TOTALS).save(tmp_path)
    remembered.close()
    newest, _ = latest(tmp_path)
    assert newest is not None
    resumed = opened()
    newest.restore(server(), resumed)
    for number in (3, 4, 5):
        resumed.commit((0, 1), rows(float(number)))
    resumed.close()
    for number in (1, 2):
        again = opened()
        load(tmp_path / f"round-0000000{number}.safetensors").restore(server(), again)
        assert torch.equal(again.gather((0, 1))["h"], rows(float(number))["h"])
        again.close()
