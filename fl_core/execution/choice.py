"""Fused or client by client: what is safe, and what pays.

A cohort runs fused only where that gives the bytes of the client-by-client run. The first cohort of a process is run
both ways and compared, and so are the 10th, the 100th, …; whatever cannot be fused, raises, or differs runs client by
client, with one line in the log that says why. On the CPU the choice never shows in a result, and each process
may find out for itself. On a GPU batched kernels round differently, so there the choice is the experiment's:
`[execution] fuse = "always"`, or else nothing is fused.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Literal

import numpy as np
from torch import Tensor

from fl_core.execution.cohort import CohortResult, CohortRunner, CohortWork
from fl_core.execution.fused import FusedRunner
from fl_core.execution.fused_functions import CannotFuseError
from fl_core.execution.fused_work import FEWEST
from fl_core.execution.kernels import same_bits
from fl_core.server import Broadcast

logger = logging.getLogger("flspan.execution")

Fuse = Literal["auto", "never", "always"]
_STRIKES = 3
"""Cohorts that may fail to fuse (a number that happens to differ between clients) before it is tried no more."""


class Fusing:
    """What a process knows about fusing one run. Its slots share it.

    Attributes:
        reason: why cohorts run client by client; None while they are fused.
    """

    def __init__(self, fuse: Fuse) -> None:
        self.fuse = fuse
        self.reason: str | None = 'fuse = "never"' if fuse == "never" else None
        self._cohorts = 0
        self._audited = False
        self._strikes = 0
        self._lock = threading.Lock()

    def audit_is_due(self) -> bool:
        """Whether the next cohort is to be run both ways: the 1st (and all until it is done), 10th, 100th, …"""
        with self._lock:
            self._cohorts += 1
            return not self._audited or self._cohorts == 10 ** (len(str(self._cohorts)) - 1)

    def passed(self) -> None:
        """A cohort gave the same both ways."""
        self._audited = True

    def give_up(self, reason: str) -> None:
        """Run client by client from now on; said once."""
        with self._lock:
            if self.reason is None:
                self.reason = reason
                logger.warning("clients run one by one: %s", reason)

    def failed(self, error: Exception) -> None:
        """A cohort could not be fused: three of them are enough. A method that never can gives up at once."""
        with self._lock:
            self._strikes += 1
            final = self._strikes >= _STRIKES or self._cohorts <= 1
        if final:
            self.give_up(why(error))


class ChosenRunner:
    """Runs cohorts of one experiment on one slot, fused or not; used by one thread at a time."""

    def __init__(self, sequential: CohortRunner, fusing: Fusing) -> None:
        self._sequential = sequential
        self._fusing = fusing
        self._fused: FusedRunner | None = None

    def run(self, broadcast: Broadcast, work: CohortWork) -> CohortResult:
        """The local work of every client of the cohort, in order. Raises what `CohortRunner.run` raises."""
        fusing = self._fusing
        if fusing.reason is not None or len(work.clients) < FEWEST:
            return self._sequential.run(broadcast, work)
        audit = fusing.audit_is_due()
        started = time.perf_counter()
        try:
            if self._fused is None:
                self._fused = FusedRunner(self._sequential)
            result = self._fused.run(broadcast, work)
        except Exception as error:  # a user's method may fail in any way on a tensor that stands for many
            expected = self._sequential.run(broadcast, work)  # her own mistakes are raised here, with their client
            fusing.failed(error)
            return expected
        return self._audited(broadcast, work, result, time.perf_counter() - started) if audit else result

    def _audited(self, broadcast: Broadcast, work: CohortWork, found: CohortResult, cold_s: float) -> CohortResult:
        """The cohort again, client by client; what differs is not used, and what does not pay not again."""
        started = time.perf_counter()
        expected = self._sequential.run(broadcast, work)
        one_by_one_s = time.perf_counter() - started
        difference = difference_of(expected, found)
        on_cpu = self._sequential.device.type == "cpu"
        if difference is not None and (on_cpu or self._fusing.fuse == "auto"):
            self._fusing.give_up(f"fused, {difference} is not what it is client by client")
            return expected
        self._fusing.passed()
        if self._fusing.fuse == "auto" and self._fused is not None:
            started = time.perf_counter()
            if cold_s > one_by_one_s:  # the first time includes the search for kernels
                self._fused.run(broadcast, work)
                fused_s = time.perf_counter() - started
                if fused_s > one_by_one_s:
                    self._fusing.give_up(f"it is faster ({one_by_one_s:.3g} s a cohort, fused {fused_s:.3g} s)")
        return expected if on_cpu else found


def difference_of(expected: CohortResult, found: CohortResult) -> str | None:
    """What differs between two results of the same cohort, in any bit; None where nothing does."""
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


def why(error: Exception) -> str:
    """One line that says why something cannot be fused."""
    if isinstance(error, CannotFuseError):
        return str(error)
    text = str(error).strip().splitlines()
    return f"{type(error).__name__} with many clients at once: {text[0] if text else ''}"


def _equal(a: Tensor, b: Tensor | None) -> bool:
    return b is not None and (a.numel() == 0 == b.numel() or same_bits(a, b))


__all__ = ["ChosenRunner", "Fuse", "Fusing", "difference_of", "why"]
