"""The command itself: names, exit codes, and that looking at runs does not wait for torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Flctl = Callable[..., Result]

COMMANDS = {"check", "command", "diff", "export", "keygen", "list", "new", "plot", "rm", "runs", "show", "watch"}


def test_every_command_is_listed_with_a_line(flctl: Flctl) -> None:
    """One file a command: all of them have help that says what they are for."""
    text = flctl("--help").output
    for name in COMMANDS:
        assert f"\n  {name} " in text
        page = flctl(name, "--help")
        assert page.exit_code == 0
        assert "Usage: " in page.output


def test_an_unknown_command_names_the_nearest(flctl: Flctl) -> None:
    """Exit code 2, one line."""
    result = flctl("polt")
    assert result.exit_code == 2
    assert result.stderr == 'flctl: there is no command "polt"; did you mean "plot"?\n'


@pytest.mark.parametrize(
    "arguments", [["--help"], ["runs"], ["show", "quad/{run}"], ["export", "quad"], ["watch", "quad"]]
)
def test_looking_at_runs_imports_neither_torch_nor_matplotlib(runs_dir: Path, arguments: list[str]) -> None:
    """In a process of its own: what is slow to import is not imported."""
    run = next((runs_dir / "quad").iterdir()).name
    words = [word.format(run=run) for word in arguments] + (["--runs-dir", str(runs_dir)] if len(arguments) != 1 or
                                                            arguments != ["--help"] else [])  # fmt: skip
    code = (
        "import sys\nfrom master.flctl import main\n"
        f"main({words!r}, standalone_mode=False)\n"
        "slow = {'torch', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False,
                          cwd=runs_dir, env={**os.environ, "PYTHONPATH": str(root)})  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_terminal_gets_a_table(runs_dir: Path) -> None:
    """On a pty: rich's table with short numbers; elsewhere tab-separated lines with every digit."""
    import pty

    root = Path(__file__).resolve().parents[3]
    leader, follower = pty.openpty()
    command = [sys.executable, "-c", "from master.flctl import main; main()", "runs", "--runs-dir", str(runs_dir)]
    environment = {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "150", "TERM": "xterm"}
    done = subprocess.Popen(command, stdout=follower, stderr=follower, cwd=runs_dir, env=environment)
    os.close(follower)
    seen = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the other end is closed: Linux says EIO
            break
        if not part:
            break
        seen += part
    os.close(leader)
    assert done.wait(timeout=60) == 0
    text = seen.decode()
    assert "─" in text
    assert "finished" in text
    assert "\t" not in text
