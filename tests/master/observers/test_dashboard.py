"""The dashboard on a real terminal: a pty of 80x24 read by pyte, with 30 workers."""

from __future__ import annotations

import re
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.master.observers.terminal import PATIENCE_S, Terminal

SCRIPT = Path(__file__).with_name("play_dashboard.py")


def player(*arguments: str) -> list[str]:
    """The command that plays a story of 30 workers."""
    return [sys.executable, "-W", "error", str(SCRIPT), "30", *arguments]


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """80x24."""
    opened = Terminal(80, 24, player())
    yield opened
    opened.close()


def whole(text: str) -> bool:
    """A frame without a tear, in which each of the 30 workers has a row or is counted in the visible line."""
    lines = text.split("\n")
    more = re.search(r"… (\d+) more:", text)
    shown = len(re.findall(r"^│ (?:local|gpu\d+:7000) ", text, re.MULTILINE))
    framed = all(line[0] in "╭│├╰" and line.rstrip()[-1] in "╮│┤╯" for line in lines)
    return framed and shown + int(more[1] if more else 0) == 30


def test_thirty_workers_on_a_real_terminal(terminal: Terminal) -> None:
    """Draws, pages, pauses, resizes, keeps stray output in its pane, stops on q, and leaves no trace."""
    text = terminal.until(lambda text: "printed by python" in text and "[2J by a library" in text and whole(text))
    assert "round 62/100" in text

    terminal.press(b"\x1b[C")
    terminal.until(lambda text: "page 2/" in text and whole(text))

    terminal.press(b"p")
    terminal.until(lambda text: " PAUSED " in text and "p resume" in text and whole(text))

    terminal.resize(100, 30)
    text = terminal.until(lambda text: text.split("\n")[29].startswith("╰") and whole(text))
    assert {len(line.rstrip()) for line in text.split("\n")} == {100}

    terminal.press(b"q")
    text = terminal.until(lambda text: "after the screen" in text)
    assert re.search(r"scaffold-s1-9f2ac1  stopped +62/100 rounds", text)
    assert "accuracy 0.9" in text
    assert terminal.process.wait(timeout=PATIENCE_S) == 0
    assert termios.tcgetattr(terminal.theirs) == terminal.modes
    assert terminal.received.count(b"\x1b[?1049h") == terminal.received.count(b"\x1b[?1049l") == 1
    assert terminal.received.rfind(b"\x1b[?25h") > terminal.received.rfind(b"\x1b[?25l")  # the cursor is back


def test_a_sigint_ends_with_a_clean_terminal(terminal: Terminal) -> None:
    """An interrupt that ends the program still gives the terminal back."""
    terminal.until(lambda text: "printed by python" in text)
    terminal.process.send_signal(2)
    assert terminal.process.wait(timeout=PATIENCE_S) != 0
    assert termios.tcgetattr(terminal.theirs) == terminal.modes


def test_a_drawing_that_fails_gives_the_terminal_back_and_the_run_goes_on() -> None:
    """The message is on the plain terminal, lines are typed and echoed as before, and the program ends well."""
    terminal = Terminal(80, 24, player("broken"))
    try:
        terminal.until(lambda text: "the dashboard failed, the run goes on: ZeroDivisionError" in text)
        assert termios.tcgetattr(terminal.theirs) == terminal.modes
        terminal.press(b"hello\n")
        terminal.until(lambda text: "the run went on: hello" in text)
        assert terminal.process.wait(timeout=PATIENCE_S) == 0
    finally:
        terminal.close()
