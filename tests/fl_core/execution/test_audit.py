"""Audits by rows: which clients, and that nothing they send can differ unseen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fl_core.execution.audit import audited_rows, difference_of, result_of_rows, work_of_rows
from fl_core.execution.cohort import CodedField, CohortResult, CohortWork

CLIENTS: tuple[int, ...] = (2, 3, 5, 7, 11, 13)
SIZES: tuple[int, ...] = (4, 0, 3, 1, 5, 2)
WORK = CohortWork(
    4, 1, CLIENTS, {"h": torch.arange(12.0).view(6, 2)}, {"p": torch.arange(6.0)}, {"delta": ("one",)}, tuple(range(6))
)


def sent() -> CohortResult:
    """What six clients send: a message of uneven sizes, a stack, a memory, and numbers."""
    coded = {"m": CodedField(1, SIZES, np.arange(sum(SIZES), dtype=np.uint8))}
    metrics = {"m": [float(i) for i in CLIENTS], "seconds_s": [0.1] * 6}
    return CohortResult(CLIENTS, coded, {"v": torch.arange(18.0).view(6, 3)}, {"h": WORK.memory["h"].clone()}, metrics)


def test_all_rows_until_one_has_passed_then_a_few() -> None:
    """The places change from audit to audit, and all lie within the cohort, whatever its size."""
    assert audited_rows(3, 50, passed=False) == slice(0, 50)
    assert audited_rows(11, 50, passed=True) is None
    later = [audited_rows(10**k, 1000, passed=True) for k in range(1, 7)]
    assert len({rows.start for rows in later if rows is not None}) == 6
    for clients in (7, 15, 16, 17, 100):
        for k in range(1, 7):
            rows = audited_rows(10**k, clients, passed=True)
            assert rows is not None
            assert 0 <= rows.start < rows.stop <= clients
            assert rows.stop - rows.start == min(16, clients)


def test_the_task_of_some_rows() -> None:
    """Each client with what is its own, and every reply is asked for."""
    part = work_of_rows(WORK, slice(2, 4))
    assert part.clients == (5, 7)
    assert part.versions == (2, 3)
    assert not part.asked
    assert part.memory["h"].tolist() == [[4.0, 5.0], [6.0, 7.0]]
    assert part.own["p"].tolist() == [2.0, 3.0]
    assert work_of_rows(replace(WORK, versions=()), slice(2, 4)).versions == ()


@pytest.mark.parametrize("rows", [slice(0, 6), slice(0, 2), slice(1, 2), slice(3, 6)])
def test_the_result_of_some_rows(rows: slice) -> None:
    """Payloads are cut where the clients' own begin and end."""
    part = result_of_rows(sent(), rows)
    assert part.clients == CLIENTS[rows]
    starts = np.cumsum((0, *SIZES))
    expected = [list(range(starts[row], starts[row + 1])) for row in range(*rows.indices(6))]
    assert part.coded["m"].payload.tolist() == [byte for payload in expected for byte in payload]
    assert part.coded["m"].sizes == SIZES[rows]
    assert torch.equal(part.dense["v"], sent().dense["v"][rows])
    assert torch.equal(part.memory["h"], sent().memory["h"][rows])
    assert part.metrics["m"] == [float(i) for i in CLIENTS[rows]]


def spoiled(where: str, row: int) -> CohortResult:
    """One bit of one client is wrong."""
    result = sent()
    changed: Any = getattr(result, where)
    if where == "coded":
        changed["m"].payload[sum(SIZES[:row])] ^= 1
    elif where == "metrics":
        changed["m"][row] += 1
    else:
        next(iter(changed.values()))[row, 0] += 1
    return result


@pytest.mark.parametrize(
    ("where", "named"),
    [("coded", "Reply.m"), ("dense", "Reply.v"), ("memory", "Memory.h"), ("metrics", "the metric m")],
)
def test_a_difference_within_the_rows_is_found(where: str, named: str) -> None:
    """Whatever kind it is of; one of another client is not theirs."""
    rows = slice(2, 5)
    expected = result_of_rows(sent(), rows)
    assert difference_of(expected, result_of_rows(sent(), rows)) is None
    for row in (2, 3, 4):
        assert difference_of(expected, result_of_rows(spoiled(where, row), rows)) == named
    for row in (0, 5):
        assert difference_of(expected, result_of_rows(spoiled(where, row), rows)) is None
