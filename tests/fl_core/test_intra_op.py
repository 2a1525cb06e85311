"""The number of threads in one operation: a thread's own, whatever other threads have said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Thread

import pytest
import torch
from torch import Tensor

from fl_core.intra_op import use_intra_op_threads


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """This thread's number comes back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def in_a_new_thread(work: Callable[[], object]) -> None:
    """Do it in a thread that torch has never seen."""
    thread = Thread(target=work)
    thread.start()
    thread.join()


def test_a_new_thread_computes_as_one_that_torch_knows() -> None:
    """A long product, whose sum MKL would split over its own threads, has the same bits."""
    torch.set_num_threads(1)
    source = torch.Generator().manual_seed(0)
    a, b = torch.randn(10, 4096, generator=source), torch.randn(4096, 64, generator=source)
    found: list[Tensor] = []

    def work() -> None:
        use_intra_op_threads(1)
        found.append(a @ b)

    for _ in range(3):
        in_a_new_thread(work)
    assert all(torch.equal(each, a @ b) for each in found)


def test_another_threads_number_does_not_reach_this_one() -> None:
    """What a new thread asks for holds, also where another thread asks for more right after."""
    found: list[int] = []

    def work() -> None:
        use_intra_op_threads(1)
        in_a_new_thread(lambda: use_intra_op_threads(2))
        torch.ones(10**6).add_(1)  # an operation that would be split
        found.append(torch.get_num_threads())

    torch.set_num_threads(2)
    in_a_new_thread(work)
    assert found == [1]
