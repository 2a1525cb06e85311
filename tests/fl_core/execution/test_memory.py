"""Memory as the table of workers shows it."""

from __future__ import annotations

import torch

from fl_core.execution.memory import gpu_bytes, resident_bytes


def test_resident_memory_grows_with_what_is_held() -> None:
    """64 MB that were written to are seen."""
    before = resident_bytes()
    held = torch.ones(8_000_000, dtype=torch.float64)
    after = resident_bytes()
    assert before is not None
    assert after is not None
    assert after - before > 50_000_000
    assert held.numel() == 8_000_000


def test_a_cpu_has_no_gpu_memory() -> None:
    """None, not zero: nothing was measured."""
    assert gpu_bytes([torch.device("cpu")]) is None
