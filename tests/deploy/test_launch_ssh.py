"""`flctl launch --on ssh`, against an sshd of the test's own on loopback."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Daemons, until
from tests.deploy.conftest import BIN, Launched, killed, processes_with, tool

pytestmark = [pytest.mark.net, pytest.mark.chaos, pytest.mark.soak, pytest.mark.timeout(240)]

SSHD = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
"""


@dataclass
class Sshd:
    """What ssh needs to reach it."""

    port: int
    folder: Path

    @property
    def options(self) -> list[str]:
        """Words for ssh; nothing of the user's own is read or written."""
        known = self.folder / "known_hosts"
        given = [
            "-F",
            "none",
            "-p",
            str(self.port),
            "-i",
            str(self.folder / "user"),
            "-o",
            f"UserKnownHostsFile={known}",
        ]
        return [f"--engine-option={word}" for word in given]


@pytest.fixture
def sshd(daemons: Daemons, tmp_path: Path) -> Sshd:
    """Listens until the test is over."""
    program, keygen = tool("sshd"), tool("ssh-keygen")
    tool("ssh")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd of root keeps what it does not trust
    folder = tmp_path / "ssh"
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "sshd_config").write_text(SSHD.format(port=port, folder=folder))
    process = daemons.start([program, "-D", "-e", "-f", str(folder / "sshd_config")], folder)
    process.until(lambda: "Server listening" in process.said, "sshd")
    return Sshd(port, folder)


def test_workers_behind_ssh_hold_a_run(
    launched: Callable[..., Launched], sshd: Sshd, undisturbed: str, tmp_path: Path
) -> None:
    """A hosts file of two lines; each worker dies once, is started again through ssh, and leaves at the end."""
    hosts = tmp_path / "hosts.txt"
    hosts.write_text(f"# two workers here\n{getpass.getuser()}@127.0.0.1\n127.0.0.1 --log-level debug\n")
    words = ["--on", "ssh", "--at", str(hosts), "--flworker", str(BIN / "flworker"), *sshd.options]
    launch = launched(*words)
    first = launch.kill_all_one_by_one(killed)
    workers = {launch.worker_pid(address) for address in launch.addresses if address not in first}
    assert launch.process.ended(120) == 0
    joined = {event["name"] for event in launch.run.events("WorkerJoined")}
    assert set(first) < joined
    assert len(first) == 2
    assert launch.run.model_sha256 == undisturbed
    until(lambda: not workers & set(processes_with("--spawned")), "the end of the workers")


def test_a_host_that_does_not_answer_is_said(launched: Callable[..., Launched], sshd: Sshd, tmp_path: Path) -> None:
    """With what ssh said of it."""
    (sshd.folder / "known_hosts").write_text("")
    hosts = tmp_path / "hosts.txt"
    hosts.write_text("127.0.0.1\n")
    launch = launched("--on", "ssh", "--at", str(hosts), *sshd.options)
    assert launch.process.ended() == 1
    assert "Host key verification failed" in launch.process.said
