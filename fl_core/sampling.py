"""Which clients take part in a round, and how they are cut into cohorts. Functions of (seed, round) alone."""

from __future__ import annotations

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
    return tuple(sorted(int(i) for i in source.choice(n, size=size, replace=False, shuffle=False)))


def cut(clients: tuple[int, ...], size: int) -> tuple[tuple[int, ...], ...]:
    """Cohorts of `size` consecutive participants (the last may be smaller): a task, and a unit of summation."""
    return tuple(clients[start : start + size] for start in range(0, len(clients), size))


def cohort_size(choice: int | str, per_round: int, d: int | None = None) -> int:
    """The experiment's cohort size. "auto" is a function of the experiment alone, since sums run by cohorts.

    About eight tasks a round, of at most 64 clients. Clients of a small model are run as one computation, which costs
    the interpreter the same whatever their number: up to d = 100,000 a round is two tasks (so that two executors share
    it) of at most 64 clients, and up to d = 1,000 of as many clients as make 50,000 parameters (64 to 1,000).
    """
    if isinstance(choice, int):
        return choice
    if d is not None and d <= 1_000:
        return max(1, min(-(-per_round // 2), max(64, min(1_000, 50_000 // d))))
    tasks = 2 if d is not None and d <= 100_000 else 8
    return max(1, min(64, -(-per_round // tasks)))
