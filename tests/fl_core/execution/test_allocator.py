"""The allocator keeps what training frees."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from fl_core.execution.allocator import give_back_memory, keep_freed_memory

def faults(size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(size)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

torch.set_num_threads(1)
assert keep_freed_memory()
empty = resident()
again = [faults(5_000_000) for _ in range(10)][-1]
held = resident()
give_back_memory()
print(again, held - empty, held - resident())
held = resident()
faults(12_000_000)
print(resident() - held)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_a_freed_gradient_is_not_paged_in_again() -> None:
    """Tensors of 20 MB one after the other cost page faults at first, later none; asked to, it gives them back.

    Before: 4,883 pages each time. How many of the first cost them depends on what lies free in the heap: a hole that a
    small block has made too small is not taken again. Vectors of 48 MB leave nothing behind.
    """
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    again, held, returned, left = map(int, ran.stdout.split())
    assert again < 100
    assert held < 10 * 4_883
    assert returned > 4_500
    assert left < 500
