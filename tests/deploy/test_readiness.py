"""sd_notify, with a supervisor's socket of the test's own."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from deploy.readiness import notify


@pytest.mark.parametrize("abstract", [False, True])
def test_the_supervisor_hears(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, abstract: bool) -> None:
    """One datagram of lines, to a socket in the file system or in the abstract namespace."""
    name = f"@flspan-{tmp_path.name}-{id(tmp_path)}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind("\0" + name[1:] if abstract else name)
        supervisor.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        assert notify("READY=1", "STATUS=round 3/10")
        assert supervisor.recv(4096) == b"READY=1\nSTATUS=round 3/10"


def test_without_a_supervisor_nothing_happens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither without the variable nor with one that leads nowhere."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not notify("READY=1")
