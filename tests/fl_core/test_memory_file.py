"""Clients' memories in a file: the same as in RAM, and as they were for whoever holds a snapshot, come what may."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from fl_core import memory_file
from fl_core.errors import RunError
from fl_core.memories import ClientMemories
from fl_core.memory_file import MappedMemories
from fl_core.state import zeros

DECLARED = {"h": zeros(), "matrix": zeros((2, 2)), "rate": 0.1, "count": 3, "seen": False, "none": zeros((0,))}
D = 5


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows a piece, so that files of many pieces are met."""
    monkeypatch.setattr(memory_file, "_PIECE_BYTES", 400)


def memories(file: Path | None = None, dtype: torch.dtype = torch.bfloat16) -> ClientMemories:
    """Nobody has taken part yet."""
    return ClientMemories(DECLARED, D, dtype, file)


def rows(g: int, value: float, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    """What g clients remember after a round."""
    return {
        "h": torch.full((g, D), value, dtype=dtype),
        "matrix": torch.full((g, 2, 2), -value, dtype=dtype),
        "rate": torch.full((g,), value, dtype=torch.float64),
        "count": torch.full((g,), int(value)),
        "seen": torch.ones(g, dtype=torch.bool),
        "none": torch.zeros(g, 0, dtype=dtype),
    }


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Names, types and bits."""
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_same_as_in_ram(tmp_path: Path, dtype: torch.dtype) -> None:
    """Through many rounds, types, clients who come back and snapshots in between."""
    ram, disk, source = memories(None, dtype), memories(tmp_path / "m", dtype), random.Random(1)
    for number in range(1, 40):
        clients = tuple(sorted(source.sample(range(60), 7)))
        assert same(disk.gather(clients), ram.gather(clients))
        for each in (ram, disk):
            each.commit(clients, rows(7, float(number), dtype))
        if number % 5 == 0:
            snapshot = disk.state().snapshot
            assert snapshot is not None
            snapshot.keep(2)
    assert same(disk.gather(tuple(range(60))), ram.gather(tuple(range(60))))


def test_a_killed_run_finds_what_its_checkpoint_had(tmp_path: Path) -> None:
    """Whatever was committed after the checkpoint was taken, and never saved, the file still holds what was."""
    running, source = memories(tmp_path / "m"), random.Random(2)
    everybody = tuple(range(20))
    taken = []
    for number in range(1, 31):
        running.commit(tuple(source.sample(range(20), 6)), rows(6, float(number)))
        if number % 4 == 0:
            taken.append((running.state(), running.gather(everybody)))
            assert taken[-1][0].snapshot is not None
            taken[-1][0].snapshot.keep(2)
    (older, _), (newest, _) = taken[-2:]
    for kept, (_, expected) in zip([(older.tensors,), (newest.tensors, older.tensors)], taken[-2:], strict=True):
        # A process that opens the file now, as after a kill: nothing was closed, nothing was flushed.
        resumed = memories(tmp_path / "m")
        resumed.restore(*kept)
        assert same(resumed.gather(everybody), expected)
        if len(kept) < 2:
            resumed.close()
            continue
        for number in range(90, 100):
            resumed.commit(everybody, rows(20, float(number)))
        assert resumed.gather((2,))["count"].tolist() == [99]
        resumed.close()
    for state, expected in taken[-2:]:  # nor has the resumed run touched what an older checkpoint may need
        again = memories(tmp_path / "m")
        again.restore(state.tensors)
        assert same(again.gather(everybody), expected)


def test_rows_are_used_again(tmp_path: Path) -> None:
    """The file grows to the clients and what changes between two checkpoints, not with the rounds."""
    running = memories(tmp_path / "m")
    for number in range(1, 200):
        running.commit(tuple(range(10)), rows(10, float(number)))
        snapshot = running.state().snapshot
        assert snapshot is not None
        snapshot.keep(2) if number % 3 else snapshot.drop()
    grown = (tmp_path / "m").stat().st_size
    assert grown <= 2 * 40 * 4096  # at most four rows a client, in pieces of a page
    for number in range(200):
        running.commit(tuple(range(10)), rows(10, float(number)))
    assert (tmp_path / "m").stat().st_size == grown


def test_a_start_uses_the_rows_that_no_checkpoint_needs(tmp_path: Path) -> None:
    """However often a run is stopped and resumed, the file does not grow."""
    sizes, kept = [], list[dict[str, torch.Tensor]]()
    for number in range(1, 8):
        running = memories(tmp_path / "m")
        if kept:
            running.restore(*reversed(kept))
        for step in range(6):
            running.commit(tuple(range(10)), rows(10, float(number)))
            state = running.state()
            assert state.snapshot is not None
            if step % 2:
                state.snapshot.keep(2)
                kept = [*kept, state.tensors][-2:]
            else:
                state.snapshot.drop()
        running.close()
        sizes.append((tmp_path / "m").stat().st_size)
    assert sizes[1:] == sizes[:1] * 6


@pytest.mark.parametrize("damage", ["a byte", "cut short", "gone"])
def test_damage_is_told(tmp_path: Path, damage: str) -> None:
    """A row that is not what it was is not taken for a client's memory."""
    running = memories(tmp_path / "m")
    running.commit((1, 2), rows(2, 7.0))
    state = running.state().tensors
    path = tmp_path / "m"
    if damage == "a byte":
        content = bytearray(path.read_bytes())
        content[3] ^= 1
        path.write_bytes(content)
    elif damage == "cut short":
        path.write_bytes(b"")
    else:
        path.unlink()
    with pytest.raises(RunError, match=r"client 1 remembered is damaged; --no-resume starts anew"):
        memories(path).restore(state)


def test_a_full_disk_is_an_error_not_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room is asked for before it is written to."""

    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(RunError, match=r"no room for what clients remember: .*No space left"):
        memories(tmp_path / "m").commit((1,), rows(1, 1.0))


def test_a_mapping_like_any_other(tmp_path: Path) -> None:
    """Clients can be listed, and forgotten; the row of one who is forgotten is used for the next."""
    kept = MappedMemories(tmp_path / "m", {"h": torch.zeros(3)})
    kept[4] = {"h": torch.ones(3)}
    kept[2] = {"h": torch.ones(3) * 2}
    assert (len(kept), list(kept), 4 in kept, 5 in kept) == (2, [4, 2], True, False)
    del kept[4]
    kept[9] = {"h": torch.ones(3) * 9}
    assert [value["h"][0].item() for value in kept.values()] == [2.0, 9.0]
    assert kept.snapshot().places[9][0] == 0
