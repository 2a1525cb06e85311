"""Replies summed where they are computed, and the sums of a round put together as they arrive.

A method that reads only sums of a Reply field (`fl_core.server.Server.asked`) needs one vector a cohort, not one a
client. The additions are those of `fl_core.replies`: within a cohort in the clients' order, then over the cohorts in
theirs; so it does not show in any byte who has made them, nor in `bits_up`, which counts what clients send.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compressors.compressor import Compressor, Layout, check_payload
from compressors.identity import Identity
from fl_core.client import LocalWork
from fl_core.errors import PlugInError
from fl_core.execution.cohort import CodedField, CohortResult, CohortWork, decode
from fl_core.replies import CohortReplies, FieldSums, Weighting, is_worth_reducing, reducible


def reduced(result: CohortResult, work: CohortWork, compressor: Compressor, layout: Layout) -> CohortResult:
    """The result with sums in place of the rows of the fields of which `work.asked` says that sums are enough.

    Rows stay where they are no longer than the sums, and where a compressor has made them smaller.
    """
    sums, coded, dense = dict(result.sums), dict(result.coded), dict(result.dense)
    for name, weightings in work.asked.items():
        rows = dense.get(name)
        if rows is None and name in coded and isinstance(compressor, Identity):
            rows = _identical(coded[name], layout)
        if rows is not None and is_worth_reducing(rows[0], len(rows), weightings):
            sums[name] = FieldSums.of_rows(rows, result.metrics["m"], weightings)
            coded.pop(name, None)
            dense.pop(name, None)
    return CohortResult(result.clients, coded, dense, result.memory, result.metrics, sums, result.skipped)


def _identical(field: CodedField, layout: Layout) -> Tensor:
    """The rows `[G, d]` of a field that identity has encoded, to be read only: its very bytes, where they allow it."""
    payload, sizes, itemsize = field.payload, field.sizes, layout.dtype.itemsize
    if payload.flags.writeable and layout.device.type == "cpu":
        raw = torch.from_numpy(payload)
        if raw.data_ptr() % itemsize == 0:
            check_payload(payload, sizes, layout.d * itemsize)
            return raw.view(layout.dtype).view(len(sizes), layout.d)
    return Identity().decode(payload, sizes, layout, [torch.Generator()] * len(sizes))


@dataclass(frozen=True)
class Gathered:
    """A round's results: what is left of them.

    Attributes:
        cohorts: the replies in cohort order, without the fields in `sums`.
        results: the clients' memories and metrics, in cohort order.
        bits: of all replies, as the clients would send them.
    """

    cohorts: Sequence[CohortReplies]
    sums: dict[str, FieldSums]
    results: Sequence[CohortResult]
    bits: int


class Gathering:
    """Takes in the results of a round's cohorts in any order, and adds them up in the cohorts' order.

    `add` only holds a result; `fold` adds up those whose turn has come, and lets go of their bytes. Both may be called
    at the same time, each by one thread.

    Args:
        works: the round's tasks; their `asked` says of which fields sums are enough.
    """

    def __init__(self, round: int, works: Sequence[CohortWork], work: LocalWork, layout: Layout) -> None:
        self._round = round
        self._order = [each.index for each in works]
        self._asked = works[0].asked if works else {}
        self._work = work
        self._layout = layout
        self._held: dict[int, CohortResult] = {}
        self._held_bytes = 0
        self._lock = threading.Lock()
        self._next = 0
        self._cohorts: list[CohortReplies] = []
        self._results: list[CohortResult] = []
        self._sums: dict[str, FieldSums] = {}
        self._bits = 0

    def add(self, index: int, result: CohortResult) -> bool:
        """Hold the result of the task of this index. True: much is held, and it is time to `fold`."""
        with self._lock:
            self._held[index] = result
            self._held_bytes += _nbytes(result)
            return self._held_bytes >= _MUCH_BYTES

    def fold(self) -> None:
        """Add up the results that are next in order."""
        while (result := self._take_next()) is not None:
            self._fold(result)

    def gathered(self) -> Gathered:
        """Everything, once every task's result is here."""
        self.fold()
        assert self._next == len(self._order), "a task of the round has no result yet"
        return Gathered(self._cohorts, self._sums, self._results, self._bits)

    def _take_next(self) -> CohortResult | None:
        if self._next == len(self._order):
            return None
        with self._lock:
            result = self._held.pop(self._order[self._next], None)
            if result is not None:
                self._next += 1
                self._held_bytes -= _nbytes(result)
            return result

    def _fold(self, result: CohortResult) -> None:
        self._bits += result.bits
        if not result.clients:  # all were skipped: a cohort that adds nothing
            self._results.append(result)
            return
        coded, rows = dict(result.coded), dict(result.dense)
        if isinstance(self._work.compressor, Identity):  # summed out of the bytes that came, without a copy
            rows |= {name: _identical(coded.pop(name), self._layout) for name in self._asked if name in coded}
        if coded:
            rows = decode(replace(result, coded=coded, dense=rows), self._round, self._work, self._layout).fields
        self._results.append(CohortResult(result.clients, {}, {}, result.memory, result.metrics, {}, result.skipped))
        fields = dict(rows)
        for name, weightings in self._asked.items():
            found: FieldSums | Tensor | None = result.sums.get(name)
            if found is None and name in fields and reducible(fields[name][0]):
                found = fields.pop(name)
            if self._cohorts and (found is not None) is not (name in self._sums):
                raise PlugInError(f"Reply.{name}: {_ALIKE}")
            if found is not None:
                self._add(name, found, result.metrics["m"], weightings)
        self._cohorts.append(CohortReplies(result.clients, result.m, fields))

    def _add(self, name: str, found: FieldSums | Tensor, m: Sequence[float], weightings: Sequence[Weighting]) -> None:
        """A cohort's sums of a field, or its rows `[G, …]`."""
        if name not in self._sums:
            self._sums[name] = FieldSums.of_rows(found, m, weightings) if isinstance(found, Tensor) else found
            return
        try:
            if isinstance(found, Tensor):
                self._sums[name].add_rows(found, m)
            else:
                self._sums[name].add(found)
        except ValueError as error:
            raise PlugInError(f"Reply.{name}: {_ALIKE}: {error}") from error


def _nbytes(result: CohortResult) -> int:
    sums = sum(total.nbytes for field in result.sums.values() for total in field.totals.values())
    rows = sum(field.payload.nbytes for field in result.coded.values())
    return sums + rows + sum(stack.nbytes for stack in result.dense.values())


_ALIKE = "all clients of a round must send values of one type and shape"

_MUCH_BYTES = 4 << 20
"""Of results that wait: less is added up in one go at the round's end."""

__all__ = ["Gathered", "Gathering", "reduced"]
