"""What launchers are told, before any engine is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.launchers import LaunchOptions, engines, launcher
from deploy.launchers.ssh import read_hosts
from protocol.errors import InputError
from protocol.secret import new_secret


def test_a_file_is_an_engine() -> None:
    """They are found by listing the folder."""
    assert engines() == ["dask", "local", "ray", "slurm", "ssh"]


def test_hosts_come_with_their_options(tmp_path: Path) -> None:
    """A line a worker; comments and empty lines are none."""
    file = tmp_path / "hosts"
    file.write_text("# GPUs\ngpu1 --devices cuda:0,cuda:1\n\nme@gpu2  # the old one\n")
    assert read_hosts(file) == [("gpu1", ["--devices", "cuda:0,cuda:1"]), ("me@gpu2", [])]


@pytest.mark.parametrize(
    ("text", "told"),
    [("", "names no host"), ("--devices cuda:0", "line 1: a line begins with"), ("gpu1\ngpu2 'x", "line 2")],
)
def test_a_hosts_file_that_is_none_is_said(tmp_path: Path, text: str, told: str) -> None:
    """With its line; and nothing that begins like an option gets to ssh in the place of a host."""
    file = tmp_path / "hosts"
    file.write_text(text)
    with pytest.raises(InputError, match=told):
        read_hosts(file)


def test_the_secret_is_in_no_command(tmp_path: Path) -> None:
    """Neither in the words of a worker nor in how the options print."""
    secret = new_secret()
    options = LaunchOptions(2, secret, tmp_path, first_port=7000, worker_options=("--devices", "cpu"))
    assert options.words(1, "127.0.0.1") == [
        *("--spawned", "--host", "127.0.0.1", "--port", "7001"),
        *("--devices", "cpu"),
    ]
    assert bytes(secret).hex() not in repr(options)


@pytest.mark.parametrize("engine", ["ssh", "dask"])
def test_an_engine_that_must_be_named_is_asked_for(engine: str, tmp_path: Path) -> None:
    """With the option that names it."""
    if engine == "dask":
        pytest.importorskip("distributed")
    with pytest.raises(InputError, match="--at"):
        launcher(engine, LaunchOptions(1, new_secret(), tmp_path))
