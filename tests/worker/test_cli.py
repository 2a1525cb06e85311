"""flworker as a command: what keeps it from starting is said in one line, with exit code 2."""

from __future__ import annotations

import socket

from click.testing import CliRunner

from worker.cli import main


def flworker(*options: str) -> str:
    """The one line it says instead of starting."""
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 2, result.output
    (line,) = result.output.strip().splitlines()
    return line


def test_it_keeps_to_loopback_without_a_secret() -> None:
    """It says what to do: a secret, or loopback."""
    line = flworker("--port", "0", "--host", "0.0.0.0", "--devices", "cpu")
    assert line.startswith("flworker: listening on 0.0.0.0 lets other machines in")
    assert "--secret-file" in line


def test_it_needs_a_device() -> None:
    """A master can do without one of its own, a worker cannot."""
    assert "a worker needs a device" in flworker("--port", "0", "--devices", "none")


def test_it_needs_a_port_that_is_free() -> None:
    """The port is the user's to choose."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1:{port}" in flworker("--port", str(port), "--devices", "cpu")


def test_it_wants_a_secret_that_is_one() -> None:
    """A file that is not there is the user's mistake, said before anything is listened on."""
    assert "/nonexistent/secret cannot be read" in flworker("--port", "0", "--secret-file", "/nonexistent/secret")
