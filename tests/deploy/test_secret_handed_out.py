"""A secret as a supervisor hands it out: a file of root's that the daemon reads as one of its group."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from protocol.errors import InputError
from protocol.secret import new_secret, read_secret, write_secret

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can hand out files")
DAEMON = 10001


@contextmanager
def as_the_daemon() -> Iterator[None]:
    """With its user and its group, and nobody else's rights."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(DAEMON)
    os.seteuid(DAEMON)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@pytest.fixture
def secret() -> Iterator[Path]:
    """In a folder that others may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        write_secret(Path(folder) / "secret", new_secret())
        os.chown(Path(folder) / "secret", 0, DAEMON)
        yield Path(folder) / "secret"


def test_what_systemd_and_kubernetes_do_is_private_enough(secret: Path) -> None:
    """Root's, and the daemon's group may read it."""
    secret.chmod(0o440)
    with as_the_daemon():
        assert len(read_secret(secret)) == 32


@pytest.mark.parametrize("mode", [0o460, 0o444, 0o450])
def test_more_than_that_is_not(secret: Path, mode: int) -> None:
    """The group may not write, and nobody else may read."""
    secret.chmod(mode)
    with as_the_daemon(), pytest.raises(InputError, match="is open to others"):
        read_secret(secret)


def test_ones_own_file_stays_ones_own(secret: Path) -> None:
    """A file of the daemon's that its group may read was left open by mistake."""
    os.chown(secret, DAEMON, DAEMON)
    secret.chmod(0o440)
    with as_the_daemon(), pytest.raises(InputError, match="is open to others"):
        read_secret(secret)
