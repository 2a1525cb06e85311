"""Which clients take part in a round, and how they are cut into cohorts. Functions of (seed, round) alone."""

from __future__ import annotations

import math

from fl_core.randomness import numpy_generator


def sample_clients(kind: str, n: int, per_round: int, seed: int, round: int) -> tuple[int, ...]:
    """The participants S_t of a round, in ascending order.

    Args:
        kind: "uniform" (per_round of n without replacement), "poisson" (each with probability per_round / n,
            independently; may be empty), "full".
    """
    if kind == "full" or (kind == "uniform" and per_round == n):
        return tuple(range(n))
    source = numpy_generator(seed, "participants", round)
    # Given their number, independent equal coins choose a uniform subset: O(S) instead of n coins.
    size = per_round if kind == "uniform" else int(source.binomial(n, per_round / n))
    chosen = source.choice(n, size=size, replace=False, shuffle=False)
    chosen.sort()
    return tuple(chosen.tolist())


class Sampler:
    """`sample_clients` of each round of a run, some rounds at a time where they are short.

    Between two rounds everything else has been forgotten by the processor's caches; sixteen samples in a row cost what
    four do one by one. Going back is allowed.

    Args:
        rounds: of the run; of the rounds after it nothing is drawn ahead.
    """

    def __init__(self, kind: str, n: int, per_round: int, seed: int, rounds: int) -> None:
        self._arguments = (kind, n, per_round, seed)
        self._rounds = rounds
        self._is_short = per_round <= _SHORT and not (kind == "full" or per_round == n)
        self._ahead: dict[int, tuple[int, ...]] = {}

    def sample(self, round: int) -> tuple[int, ...]:
        """The participants of the round, in ascending order."""
        if round not in self._ahead:
            end = min(round + _AHEAD, self._rounds + 1) if self._is_short else 0
            self._ahead = {number: sample_clients(*self._arguments, number) for number in range(round, end)}
        found = self._ahead.get(round)
        return sample_clients(*self._arguments, round) if found is None else found


_AHEAD = 16
_SHORT = 2000
"""Participants up to which some rounds' are kept."""


def cut(clients: tuple[int, ...], size: int) -> tuple[tuple[int, ...], ...]:
    """Cohorts of `size` consecutive participants (the last may be smaller): a task, and a unit of summation."""
    return tuple(clients[start : start + size] for start in range(0, len(clients), size))


def cohort_size(choice: int | str, per_round: int, d: int | None = None, samples: float = math.inf) -> int:
    """The experiment's cohort size. "auto" is a function of the experiment alone, since sums run by cohorts.

    About eight tasks a round, of at most 64 clients. Clients of a small model are run as one computation, which costs
    the interpreter the same whatever their number: up to d = 100,000 a round is two tasks (so that two executors share
    it) of at most 64 clients, and up to d = 1,000 of as many clients as make 50,000 parameters (64 to 1,000). A round
    with less to compute than a second task would cost is one task. From d = 1,000,000 on a client takes far longer than
    its task costs: 32 tasks, so that executors finish together.

    Args:
        samples: that a client uses in a round, each as often as it does.
    """
    if isinstance(choice, int):
        return choice
    largest = 64 if d is None or d > 1_000 else max(64, min(1_000, 50_000 // d))
    return max(1, min(largest, -(-per_round // _tasks(per_round, d, samples))))


def _tasks(per_round: int, d: int | None, samples: float) -> int:
    if d is None:
        return 8
    if per_round * d * samples <= _ONE_TASK:
        return 1
    if d <= 100_000:
        return 2
    return 8 if d < 1_000_000 else 32


_ONE_TASK = 2_000_000
"""Parameters times samples of a round that are not shared between two tasks: about a millisecond of one core."""
