"""Streams that are almost right, in every state of a connection: nothing but the protocol's own errors, no memory."""

from __future__ import annotations

import gc
import resource
from pathlib import Path
from typing import Any

import pytest

from tests.protocol.byte_fuzzer import ByteFuzzer

GROWTH_BYTES = 16 << 20


def resident_bytes() -> int:
    """Of this process, now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize(
    ("seconds_s", "seed"), [(3.0, 1), pytest.param(60.0, 2, marks=[pytest.mark.soak, pytest.mark.timeout(240)])]
)
def test_spoiled_streams_give_protocol_errors_and_nothing_else(wire: Any, seconds_s: float, seed: int) -> None:
    """No other exception, no step of a handshake on spoiled bytes, less than 16 MiB of growth; the speed is printed."""
    fuzzer = ByteFuzzer(wire, seed)
    fuzzer.run_for(0.2)  # what is loaded and kept once is not growth
    gc.collect()
    before = resident_bytes()
    done = fuzzer.run_for(seconds_s)
    gc.collect()
    growth = resident_bytes() - before
    per_s = done.streams / (seconds_s + 0.2)
    print(f"{done.streams} streams, {per_s:.0f}/s, {done.nbytes} bytes, grew by {growth >> 10} KiB: {done.ended}")
    assert growth < GROWTH_BYTES
    kinds = {"FrameError", "LimitError", "MessageError", "StateError", "AuthenticationError", "waits"}
    assert set(done.ended) == kinds  # every one was reached, and nothing else is there
