"""`flctl ping` and `flctl status`, against a worker that is real."""

from __future__ import annotations

import json
import shutil
import signal
import socket
from pathlib import Path

import pytest

from protocol.secret import new_secret, write_secret
from tests.conftest import Daemons, Process
from tests.master.flctl.conftest import Flctl

pytestmark = [pytest.mark.net, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def worker(module_daemons: Daemons, tmp_path_factory: pytest.TempPathFactory) -> Process:
    """With a secret, in the file `secret` of its folder."""
    folder = tmp_path_factory.mktemp("guarded")
    write_secret(folder / "secret", new_secret())
    started = module_daemons.worker(folder, "--secret-file", str(folder / "secret"))
    module_daemons.listening(started)
    return started


@pytest.fixture(scope="module")
def secret_file(worker: Process) -> Path:
    """The worker's."""
    return Path(str(worker.popen.args[-1]))  # type: ignore[index]


def test_a_worker_that_is_there_answers(worker: Process, secret_file: Path, flctl: Flctl) -> None:
    """Exit code 0; the worker took it for no master."""
    result = flctl("ping", worker.address, "--secret-file", secret_file)
    assert result.exit_code == 0, result.output
    assert "is idle: answered in" in result.output
    assert "serving" not in worker.said


def test_a_wrong_secret_is_no_answer(worker: Process, flctl: Flctl, tmp_path: Path) -> None:
    """Nobody without the secret learns anything."""
    write_secret(tmp_path / "other", new_secret())
    result = flctl("ping", worker.address, "--secret-file", tmp_path / "other")
    assert result.exit_code == 1
    assert "same secret" in result.output


def test_nobody_there_is_no_answer(flctl: Flctl) -> None:
    """Exit code 1 in a health check, 2 for what is no address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert flctl("ping", f"127.0.0.1:{port}").exit_code == 1
    assert flctl("ping", "gpu1").exit_code == 2


def test_status_tells_what_a_worker_is(worker: Process, secret_file: Path, flctl: Flctl) -> None:
    """Versions, devices, load; of one that is not there, why."""
    words = ("status", worker.address, "127.0.0.1:1", "--secret-file", secret_file)
    result = flctl(*words, "--json")
    assert result.exit_code == 1
    told, silent = json.loads(result.output)
    assert (told["state"], told["busy"], told["slots"], told["tasks"]) == ("idle", 0, 1, 0)
    assert told["devices"] == ["cpu"]
    assert told["pid"] == worker.pid
    assert told["version"]
    assert "cannot connect" in silent["error"]
    header, row = flctl("status", worker.address, "--secret-file", secret_file).output.splitlines()
    assert dict(zip(header.split("\t"), row.split("\t"), strict=True))["busy"] == "0/1"


def test_a_worker_behind_tls_answers(daemons: Daemons, flctl: Flctl, tmp_path: Path) -> None:
    """By the certificate of `flctl keygen`; not to one who expects another."""
    tool = shutil.which("openssl")
    if tool is None:
        pytest.skip("openssl is not installed here")
    assert flctl("keygen", tmp_path / "key").exit_code == 0
    secret, certificate = str(tmp_path / "key"), str(tmp_path / "key.crt")
    tls = ("--tls-cert", certificate, "--tls-key", str(tmp_path / "key.key"))
    started = daemons.worker(tmp_path, "--secret-file", secret, *tls)
    daemons.listening(started)
    words = ("ping", started.address, "--secret-file", secret)
    assert flctl(*words, "--tls-ca", certificate).exit_code == 0
    assert flctl(*words, "--tls-fingerprint", "00" * 32).exit_code == 1
    assert flctl(*words).exit_code == 1


def test_a_worker_that_drains_ends(worker: Process) -> None:
    """After all visits nothing of them keeps it."""
    worker.signal(signal.SIGTERM)
    assert worker.ended() == 0
