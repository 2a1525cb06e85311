"""`flctl keygen`: three files that nobody else can read, and commands that work with them."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from master.flctl import main
from protocol.secret import read_secret
from protocol.tls import fingerprint_of, master_tls, worker_tls


def test_it_makes_a_secret_a_certificate_and_its_key(tmp_path: Path) -> None:
    """All of mode 0600; what it prints tells the fingerprint and both command lines, and no secret."""
    result = CliRunner().invoke(main, ["keygen", str(tmp_path / "secret")])
    assert result.exit_code == 0
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["secret", "secret.crt", "secret.key"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    worker = worker_tls(tmp_path / "secret.crt", tmp_path / "secret.key")
    (printed,) = re.findall(r"--tls-fingerprint (\w{64})", result.output)
    assert master_tls([printed], None).pins == (worker.own,)
    assert fingerprint_of((tmp_path / "secret.crt").read_text()) == worker.own
    assert read_secret(tmp_path / "secret").hex() not in result.output


@pytest.mark.parametrize("name", ["secret", "secret.crt", "secret.key"])
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    """If one of the three is there already none is made."""
    (tmp_path / name).write_text("precious")
    result = CliRunner().invoke(main, ["keygen", str(tmp_path / "secret")])
    assert result.exit_code == 2
    assert f"{name} exists" in result.output
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


def test_without_openssl_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No half of a result: install it, or --no-tls, which makes the secret alone."""
    monkeypatch.setenv("PATH", str(tmp_path))
    result = CliRunner().invoke(main, ["keygen", str(tmp_path / "secret")])
    assert result.exit_code == 2
    assert "--no-tls" in result.output
    assert list(tmp_path.iterdir()) == []
    assert CliRunner().invoke(main, ["keygen", "--no-tls", str(tmp_path / "secret")]).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
