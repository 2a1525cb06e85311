"""protocol.secret: the secret's file and its silence."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from protocol.connection import Identity
from protocol.errors import InputError
from protocol.secret import Secret, new_secret, read_secret, write_secret


def test_a_written_secret_is_read_back_and_closed_to_others(tmp_path: Path) -> None:
    """What keygen writes is what both sides read; the file has mode 0600, and a second write is refused."""
    secret = new_secret()
    write_secret(tmp_path / "secret", secret)
    assert read_secret(tmp_path / "secret") == secret
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    with pytest.raises(InputError, match="never overwritten"):
        write_secret(tmp_path / "secret", secret)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o610])
def test_a_file_open_to_others_is_refused_with_the_command_that_helps(tmp_path: Path, mode: int) -> None:
    """Any bit of group or others is too many."""
    path = tmp_path / "secret"
    write_secret(path, new_secret())
    path.chmod(mode)
    with pytest.raises(InputError, match=f"chmod 600 {path}"):
        read_secret(path)


@pytest.mark.parametrize("text", ["", "password", "ab" * 31, "00" * 32, "zz" * 32, "ab" * 40])
def test_a_weak_or_malformed_secret_is_refused(tmp_path: Path, text: str) -> None:
    """Too short, no hexadecimal, or a repeated byte: the error names the file and how to make a good one."""
    path = tmp_path / "secret"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(InputError, match=rf"{path}.*flctl keygen"):
        read_secret(path)


def test_a_missing_file_is_the_users_error(tmp_path: Path) -> None:
    """No traceback, but the name of the file."""
    with pytest.raises(InputError, match="nowhere"):
        read_secret(tmp_path / "nowhere")


def test_a_secret_does_not_print() -> None:
    """No way of turning it, or what holds it, into text shows it."""
    secret = Secret(b"0123456789abcdef0123456789abcdef")
    for text in (repr(secret), str(secret), f"{secret}", f"{secret!r:>5}", repr(Identity(secret)), repr([secret])):
        assert "0123" not in text
        assert "30313233" not in text
