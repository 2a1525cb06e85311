"""Run folders: names, status, whole files, one owner."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from master.runs import MEMORIES, RunFolder, environment, git_state, run_name, slug, write_whole, writing_runs
from protocol.errors import InputError, RunError

TOML = 'name = "digits"\n'


def folder_in(tmp_path: Path) -> RunFolder:
    """A run folder that is not there yet."""
    return RunFolder.at(tmp_path / "runs", "Digits FedAvg", run_name("scaffold, 10 %", 3, "9f2ac1"))


def test_the_name_of_a_run_says_label_seed_and_digest(tmp_path: Path) -> None:
    """And is safe in every shell and file system."""
    assert folder_in(tmp_path).path == tmp_path / "runs" / "digits-fedavg" / "scaffold-10-s3-9f2ac1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("../../etc", "etc"), ("Größe α", "groe"), ("ββ", "run"), ("", "run"), ("a" * 99, "a" * 60)],
)
def test_a_slug_never_leaves_its_folder(text: str, expected: str) -> None:
    """No dot, slash or blank survives, and something always does."""
    assert slug(text) == expected


def test_status_goes_from_new_to_unfinished_to_finished(tmp_path: Path) -> None:
    """A stopped run is unfinished; only a summary that says finished ends it."""
    folder = folder_in(tmp_path)
    assert folder.status() == "new"
    with folder.open(TOML, {"host": "a"}):
        assert folder.status() == "unfinished"
        folder.write_summary({"reason": "stopped"})
        assert folder.status() == "unfinished"
        folder.write_summary({"reason": "finished", "accuracy": 0.93})
    assert folder.status() == "finished"
    assert folder.summary() == {"reason": "finished", "accuracy": 0.93}
    assert folder.experiment() == TOML
    assert folder.checkpoints.is_dir()


def test_each_start_is_remembered(tmp_path: Path) -> None:
    """environment.json keeps the first start when a run is resumed elsewhere."""
    folder = folder_in(tmp_path)
    for host in "ab":
        folder.open(TOML, {"host": host}).close()
    assert folder.environments() == [{"host": "a"}, {"host": "b"}]


def test_another_experiment_is_refused(tmp_path: Path) -> None:
    """Results of two experiments never mix, and the folder is free again after the refusal."""
    folder = folder_in(tmp_path)
    folder.open(TOML, {}).close()
    with pytest.raises(InputError, match=r"experiment\.toml is not the experiment"):
        folder.open(TOML + "rounds = 2\n", {})
    folder.open(TOML, {}).close()


def test_two_masters_cannot_hold_one_folder(tmp_path: Path) -> None:
    """A real second process is refused while the first lives, and let in after."""
    folder = folder_in(tmp_path)
    script = "import sys; from pathlib import Path; from master.runs import RunLock; RunLock(Path(sys.argv[1]))"
    command = [sys.executable, "-c", script, str(folder.path)]
    with folder.open(TOML, {}):
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "another flmaster is writing to" in refused.stderr
    assert subprocess.run(command, check=False).returncode == 0


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]"])
def test_a_damaged_summary_is_named(tmp_path: Path, content: bytes) -> None:
    """It is neither taken for finished nor silently run over."""
    folder = folder_in(tmp_path)
    folder.open(TOML, {}).close()
    (folder.path / "summary.json").write_bytes(content)
    with pytest.raises(InputError, match=r"summary\.json"):
        folder.status()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """The rename cannot happen onto a folder: the old content stays and no temporary file is left."""
    target = tmp_path / "occupied"
    (target / "child").mkdir(parents=True)
    with pytest.raises(OSError):
        write_whole(target, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["occupied"]


def test_write_whole_replaces(tmp_path: Path) -> None:
    """The new content is there and no temporary file is."""
    target = tmp_path / "f"
    write_whole(target, b"old")
    write_whole(target, b"new")
    assert target.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_environment_says_what_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions, devices and the command line as given; no git outside a work tree."""
    monkeypatch.chdir(tmp_path)
    says = environment(["flmaster", "--secret-file", "k", "e.toml"], ["cpu"])
    assert says["command_line"] == ["flmaster", "--secret-file", "k", "e.toml"]
    assert says["devices"] == ["cpu"]
    assert {"torch", "numpy", "msgspec"} <= set(says["packages"])
    assert says["git"] is None


def test_git_state_names_the_commit_and_changes(tmp_path: Path) -> None:
    """A real repository, clean and then changed."""
    identity = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    (tmp_path / "f").write_text("1")
    for arguments in (["init", "-q"], ["add", "f"], [*identity, "commit", "-qm", "one"]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    clean = git_state(tmp_path)
    assert clean is not None
    assert len(clean["commit"]) == 40
    assert clean["changed"] is False
    (tmp_path / "f").write_text("2")
    assert git_state(tmp_path) == {"commit": clean["commit"], "changed": True}


def test_a_full_disk_is_told_as_one() -> None:
    """The folder, why, and what to do; `/dev/full` is a full disk."""
    expected = r"the runs folder r .*cannot be written: the disk is full; make room there, or"
    with pytest.raises(RunError, match=expected), writing_runs(Path("r")):
        Path("/dev/full").write_bytes(b"x")


def test_a_run_begun_anew_holds_the_old_one_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before any of the removals: as long as there is a checkpoint, all that it counts on is there, and a folder
    that has lost something is not called finished."""
    contents = ("summary.json", "metrics.jsonl", MEMORIES, "model.safetensors")
    checkpoints = [f"round-{number:08d}.{kind}" for number in (9, 10) for kind in ("safetensors", "sha256")]
    unlink = Path.unlink
    for kill_after in range(len(contents) + len(checkpoints) + 2):
        folder = RunFolder(tmp_path / str(kill_after))
        folder.open(TOML, {}).close()
        folder.write_summary({"reason": "finished"})
        for path in (*(folder.path / name for name in contents[1:]), *(folder.checkpoints / c for c in checkpoints)):
            path.write_bytes(b"x")
        (folder.checkpoints / ".round-00000011.safetensors.1.tmp").write_bytes(b"x")
        left = iter(range(kill_after))

        def killed(path: Path, missing_ok: bool = False, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            unlink(path, missing_ok)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", killed)
            try:
                folder.begin_anew()
                is_whole = True
            except KeyboardInterrupt:
                is_whole = False
        names = {path.name for path in folder.path.iterdir()}
        assert (kill_after > 0) <= (folder.status() == "unfinished")
        if list(folder.checkpoints.glob("*.safetensors")):
            assert {"metrics.jsonl", MEMORIES} <= names
        if is_whole:
            assert names == {"experiment.toml", "environment.json", "checkpoints"}
            assert list(folder.checkpoints.iterdir()) == []
    assert is_whole
