"""A worker gives a task the memories it has itself made, if they are those the master means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch

from fl_core.execution import wire
from fl_core.execution.cohort import CohortResult, CohortWork
from fl_core.execution.held_memories import HeldMemories, completed
from protocol.errors import MessageError

Sent = Callable[[Any], Any]


def made(clients: tuple[int, ...], round: int) -> CohortResult:
    """What these clients remember after a round: 100 × round + client."""
    h = torch.tensor([[100.0 * round + i] * 3 for i in clients])
    return CohortResult(clients, {}, {}, {"h": h, "count": torch.tensor(clients)}, {})


def test_rows_that_stay_and_rows_that_come_make_the_whole(sent: Sent) -> None:
    """In the clients' order, whichever of them the worker holds; and only the others' bytes travel."""
    clients, rounds = (2, 3, 5, 8), {2: 1, 3: 4, 5: 3, 8: 4}
    held = HeldMemories()
    for i, round in rounds.items():
        held.keep(made((i,), round), round)
    whole = {
        "h": torch.cat([made((i,), rounds[i]).memory["h"] for i in clients]),
        "count": torch.tensor(clients),
    }
    work = CohortWork(5, 0, clients, whole, {}, {}, tuple(rounds[i] for i in clients))
    for rows in ([], [1], [0, 3], [0, 1, 2, 3]):
        message, buffers = sent(wire.task_message("r", work, 1, rows))
        assert sum(buffer.nbytes for buffer in buffers) == (4 - len(rows)) * 20
        found = held.find(message.clients, message.held)
        assert found is not None
        memory = completed(wire.work_of(message, buffers), found).memory
        assert memory.keys() == whole.keys()
        assert all(torch.equal(memory[name], whole[name]) for name in whole)


def test_another_round_s_memory_is_not_it() -> None:
    """Who has run elsewhere since remembers something else."""
    held = HeldMemories()
    held.keep(made((2, 3), 4), 4)
    assert held.find((2, 3), [(1, 4)]) is not None
    assert held.find((2, 3), [(1, 3)]) is None
    assert held.find((2, 7), [(1, 4)]) is None
    held.keep(made((3,), 6), 6)
    assert held.find((2, 3), [(1, 4)]) is None


def test_what_was_not_used_for_longest_goes_first() -> None:
    """So many bytes are kept, and no more."""
    held = HeldMemories(budget_bytes=3 * 20)
    for i in (1, 2, 3):
        held.keep(made((i,), 1), 1)
    assert held.find((1,), [(0, 1)]) is not None
    held.keep(made((4,), 1), 1)
    assert [i for i in (1, 2, 3, 4) if held.find((i,), [(0, 1)]) is not None] == [1, 3, 4]


def test_a_cohort_s_memory_counts_whole_while_one_of_its_rows_is_kept() -> None:
    """Nine tenths of a stack cannot be freed: the last row left of it is what goes when there is too much."""
    held = HeldMemories(budget_bytes=10 * 20)
    held.keep(made((1, 2, 3, 4), 1), 1)
    held.keep(made((5, 6, 7, 8), 1), 1)
    for i in (1, 2, 3):  # of 220 bytes the first stack holds 80 for one row
        held.keep(made((i,), 2), 2)
    assert held.find((4,), [(0, 1)]) is None
    assert held.find((1, 2, 3), [(0, 2), (1, 2), (2, 2)]) is not None
    assert held.find((5, 6, 7, 8), [(k, 1) for k in range(4)]) is not None


@pytest.mark.parametrize("held", [[(4, 1)], [(1, 1), (1, 1)], [(1, 1)]])
def test_a_task_must_say_whose_memory_is_missing(sent: Sent, held: list[tuple[int, int]]) -> None:
    """Positions outside of the cohort, twice the same, or of clients whose rows came all the same: refused."""
    work = CohortWork(5, 0, (2, 3), made((2, 3), 1).memory, {})
    message, buffers = sent(wire.task_message("r", work, 1))
    with pytest.raises(MessageError):
        wire.work_of(msgspec.structs.replace(message, held=held), buffers)
