"""How much memory this process holds, for the table of workers. Cheap enough to ask once a second."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch


def resident_bytes() -> int | None:
    """Memory of this process in RAM, now; None where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def gpu_bytes(devices: Iterable[torch.device]) -> int | None:
    """Memory that torch holds on these GPUs, free blocks of its allocator included; None without a GPU."""
    held = [torch.cuda.memory_reserved(device) for device in devices if device.type == "cuda"]
    return sum(held) if held else None


__all__ = ["gpu_bytes", "resident_bytes"]
