"""Audits: the clients of a fused cohort run one by one again, all or some of them, and every bit of them compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from fl_core.execution.cohort import CodedField, CohortResult, CohortWork
from fl_core.execution.kernels import same_bits
from fl_core.randomness import seed_of

_AUDITED = 16
"""Clients of a later audit: one of the whole cohort takes as long as ten to twenty rounds."""


def audited_rows(cohorts: int, clients: int, passed: bool) -> slice | None:
    """Which rows of a cohort of so many clients are to be run one by one too. None: it is not audited.

    All of them until an audit has passed; then 16 neighbours of the 10th cohort, the 100th, …, elsewhere each time.

    Args:
        cohorts: so many have run, this one included.
    """
    if not passed:
        return slice(0, clients)
    if cohorts != 10 ** (len(str(cohorts)) - 1):
        return None
    first = seed_of(cohorts, "audit") % max(1, clients - _AUDITED + 1)
    return slice(first, min(first + _AUDITED, clients))


def work_of_rows(work: CohortWork, rows: slice) -> CohortWork:
    """The task of some of a cohort's clients, with every reply kept, not their sums."""
    return replace(
        work,
        clients=work.clients[rows],
        memory={name: stack[rows] for name, stack in work.memory.items()},
        own={name: stack[rows] for name, stack in work.own.items()},
        asked={},
        versions=work.versions[rows],
    )


def result_of_rows(result: CohortResult, rows: slice) -> CohortResult:
    """What some of a cohort's clients send. The result must hold all replies, and skip nobody."""
    return replace(
        result,
        clients=result.clients[rows],
        coded={name: _coded_rows(field, rows) for name, field in result.coded.items()},
        dense={name: stack[rows] for name, stack in result.dense.items()},
        memory={name: stack[rows] for name, stack in result.memory.items()},
        metrics={name: values[rows] for name, values in result.metrics.items()},
    )


def _coded_rows(field: CodedField, rows: slice) -> CodedField:
    ends = np.cumsum((0, *field.sizes))
    first, last, _ = rows.indices(len(field.sizes))
    return CodedField(field.call, field.sizes[rows], field.payload[ends[first] : ends[last]])


def difference_of(expected: CohortResult, found: CohortResult) -> str | None:
    """What differs between two results of the same clients, in any bit; None where nothing does."""
    if expected.clients != found.clients:
        return "the cohort"
    if expected.coded.keys() != found.coded.keys() or expected.dense.keys() != found.dense.keys():
        return "the kind of a reply"
    for name, field in expected.coded.items():
        other = found.coded[name]
        if (field.call, field.sizes) != (other.call, other.sizes) or not np.array_equal(field.payload, other.payload):
            return f"Reply.{name}"
    for kind, ours, theirs in (("Reply", expected.dense, found.dense), ("Memory", expected.memory, found.memory)):
        for name, stack in ours.items():
            if not _equal(stack, theirs.get(name)):
                return f"{kind}.{name}"
    for name, values in expected.metrics.items():
        if name != "seconds_s" and found.metrics.get(name) != values:
            return f"the metric {name}"
    return None


def _equal(a: Tensor, b: Tensor | None) -> bool:
    return b is not None and (a.numel() == 0 == b.numel() or same_bits(a, b))


__all__ = ["audited_rows", "difference_of", "result_of_rows", "work_of_rows"]
