"""Stray output: what is printed meanwhile is caught, in a process of its own since it takes descriptors 1 and 2."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import os, sys
from master.observers.stray_output import StrayOutput
stray = StrayOutput()
print("before")
stray.start()
print("by python")
os.write(2, b"by a library\\nunended")
for number in range(50_000):
    os.write(1, b"x" * 79 + b"\\n")  # far more than a pipe holds, with nobody calling lines()
os.write(2, b"the last")
stray.stop()
caught = stray.lines()
print("after", len(caught), caught[-1])
print("errors again", file=sys.stderr)
"""


def test_everything_printed_is_caught_and_a_flood_cannot_block() -> None:
    """4 MB through a 64 KiB pipe with nobody looking: the last 1000 lines are kept, descriptors are given back."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "before\nafter 1000 the last\n"
    assert done.stderr == "errors again\n"
