"""The C library's allocator, told how training uses memory: what is freed now is asked for again in a moment.

By default glibc returns every block of more than 32 MB to the system when it is freed, and trims its heap; the next
gradient then costs a page fault every 4 KB (10,000 to 30,000 a client of ResNet-18, a tenth of a small CNN's time). A
thread's own arena is cut into heaps of 64 MB that come and go in the same way.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

# malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_LARGEST = 2**31 - 1
_DATA_BYTES = 1 << 30
"""Blocks of this size are no gradient but a data set: they go back to the system."""
_GROWTH_BYTES = 64 << 20


@cache
def keep_freed_memory() -> bool:
    """Let this process keep what it frees, in one arena for all threads. False where the C library is not glibc."""
    library = _glibc()
    if library is None:
        return False
    chosen = {
        _M_MMAP_THRESHOLD: _DATA_BYTES,
        _M_TRIM_THRESHOLD: _LARGEST,
        _M_TOP_PAD: _GROWTH_BYTES,
        _M_ARENA_MAX: 1,
    }
    taken = [library.mallopt(name, value) for name, value in chosen.items()]  # each, even if one is refused
    return all(taken)


def give_back_memory() -> None:
    """Return what is free to the system: after work whose temporaries will not come again, as loading data."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


@cache
def _glibc() -> Any:
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  its name is the question
    except (OSError, AttributeError, TypeError):
        return None
    return library


__all__ = ["give_back_memory", "keep_freed_memory"]
