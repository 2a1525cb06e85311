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

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(12_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

torch.set_num_threads(1)
assert keep_freed_memory()
first, again = faults(), faults()
held = resident()
give_back_memory()
print(first, again, held - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_a_freed_gradient_is_not_paged_in_again() -> None:
    """Five tensors of 48 MB one after the other cost the page faults of one, later none; asked to, it gives them back.

    Before: 11,719 pages each time.
    """
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    first, again, returned = map(int, ran.stdout.split())
    assert first < 2 * 11_719
    assert again < 100
    assert returned > 11_000
