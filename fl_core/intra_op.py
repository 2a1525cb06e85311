"""How many threads one operation of torch uses: the last bits of a large product depend on it, so it is said."""

from __future__ import annotations

import torch


def use_intra_op_threads(count: int = 1) -> None:
    """From now on the calling thread's operations run in this many threads each.

    `torch.set_num_threads` in another thread does not reach this one's MKL, which starts with one thread a core; and
    what it says in a new thread is overwritten by the newest number of any thread, once torch takes note of the
    thread. Asking for the number is what makes torch take note.
    """
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
