"""The C library's allocator, told how training uses memory: what is freed now is asked for again in a moment.

By default glibc trims its heap, and a thread's own arena is cut into heaps of 64 MB that come and go; the next
activation then costs a page fault every 4 KB (a tenth of a small CNN's time). So one heap keeps what is freed. But the
vectors of a large model do not go there: between activations that are freed and asked for again they leave holes that
fit nothing (ResNet-18: 200 MB), so each is mapped by itself and goes back to the system. Its page faults are 2 to 5 %
of that model's time.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

# malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_LARGEST = 2**31 - 1
_VECTOR_BYTES = 24 << 20
"""Blocks of this size are a vector `[d]` of a large model, or data: they go back to the system."""
_GROWTH_BYTES = 64 << 20


@cache
def keep_freed_memory() -> bool:
    """Let this process keep what it frees, in one arena for all threads. False where the C library is not glibc."""
    library = _glibc()
    if library is None:
        return False
    chosen = {
        _M_MMAP_THRESHOLD: _VECTOR_BYTES,
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
