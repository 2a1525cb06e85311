"""Fused or client by client: what is safe, and what pays.

A cohort runs fused only where that gives the bytes of the client-by-client run. The first cohort of a process is run
both ways and compared, and so are some clients of the 10th, the 100th, …; whatever cannot be fused, raises, or differs
runs client by client, with one line in the log that says why. Whether it pays is timed once, by the processor's time of
the thread where the device is a CPU: what else the machine does must not decide. `Fusing.decision` is kept with the
run, so that a rerun does the same. On the CPU the choice never shows in a result. On a GPU batched kernels round
differently, so there the choice is the experiment's: `[execution] fuse = "always"`, or else nothing is fused.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, Literal, TypedDict

import torch
from torch.overrides import TorchFunctionMode

from fl_core.errors import BREAKS, USER_MODULE, as_she_named
from fl_core.execution.audit import audited_rows, difference_of, result_of_rows, work_of_rows
from fl_core.execution.cohort import CohortResult, CohortRunner, CohortWork
from fl_core.execution.fused import FusedRunner
from fl_core.execution.fused_functions import CannotFuseError
from fl_core.execution.fused_work import FEWEST
from fl_core.server import Broadcast

logger = logging.getLogger("flspan.execution")

Fuse = Literal["auto", "never", "always"]
_STRIKES = 3
"""Cohorts that may fail to fuse (a number that happens to differ between clients) before it is tried no more."""


_FASTER = 0.9
"""Of the time one by one, what a fused cohort may take to be worth its memory."""
_TRIES = 3
_LONG_OPERATION_S = 200e-6
"""What an operation of one client takes where the interpreter beside it no longer matters: no gain was ever measured
with operations of more than 0.05 ms; this leaves room for a slow machine."""

_OPERATIONS = 3
"""Of a call of torch in a client's local work: itself, and what its gradients take."""


class Decision(TypedDict):
    """Whether cohorts are fused, and why; a run folder keeps it, so that a rerun does the same.

    `fused_s`, `one_by_one_s`: what a cohort took (on a CPU: of the thread's own time there), the shortest of a few; 0
    where it was not timed.
    """

    fused: bool
    reason: str
    fused_s: float
    one_by_one_s: float


class Fusing:
    """What a process knows about fusing one run. Its slots share it.

    Args:
        decided: what an earlier process has decided for the same run: nothing is timed again, and what could not be
            fused is not tried. (`fuse = "never"` and `"always"` come first.)

    Attributes:
        reason: why cohorts run client by client; None while they are fused.
    """

    def __init__(self, fuse: Fuse, decided: Decision | None = None) -> None:
        self.fuse = fuse
        self.reason: str | None = None
        self._decision: Decision | None = None
        if fuse == "never":
            self.reason = 'fuse = "never"'
            self._decision = Decision(fused=False, reason=self.reason, fused_s=0.0, one_by_one_s=0.0)
        elif fuse == "auto" and decided is not None:
            self._decision = decided
            self.reason = None if decided["fused"] else decided["reason"]
        self._cohorts = 0
        self._audited = False
        self._strikes = 0
        self._lock = threading.Lock()

    def decision(self) -> Decision | None:
        """What is decided; None until a cohort has been tried."""
        return self._decision

    def decide(self, pays: bool, fused_s: float, one_by_one_s: float) -> None:
        """A cohort was timed both ways. The first slot to know decides; the others follow."""
        with self._lock:
            if self._decision is not None:
                return
            text = f"a cohort takes {fused_s:.3g} s fused and {one_by_one_s:.3g} s client by client"
            self._decision = Decision(fused=pays, reason=text, fused_s=fused_s, one_by_one_s=one_by_one_s)
        if not pays:
            self.give_up(text)

    def due_audit(self, clients: int) -> slice | None:
        """Which rows of the next cohort, of so many clients, are to be run one by one too (`audited_rows`)."""
        with self._lock:
            self._cohorts += 1
            return audited_rows(self._cohorts, clients, self._audited)

    def passed(self) -> None:
        """A cohort gave the same both ways."""
        self._audited = True

    def give_up(self, reason: str) -> None:
        """Run client by client from now on; said once."""
        with self._lock:
            if self.reason is not None:
                return
            self.reason = reason
            kept = self._decision or Decision(fused=False, reason=reason, fused_s=0.0, one_by_one_s=0.0)
            self._decision = Decision(**{**kept, "fused": False, "reason": reason})
        logger.warning("clients run one by one: %s", reason)

    def failed(self, error: BaseException) -> None:
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
        self._on_cpu = sequential.device.type == "cpu"
        if not self._on_cpu and fusing.fuse == "auto":
            fusing.give_up('batched kernels of a GPU round otherwise; [execution] fuse = "always" fuses there too')

    def run(self, broadcast: Broadcast, work: CohortWork) -> CohortResult:
        """The local work of every client of the cohort, in order. Raises what `CohortRunner.run` raises."""
        fusing = self._fusing
        if fusing.reason is not None or len(work.clients) < FEWEST:
            return self._sequential.run(broadcast, work)
        if fusing.fuse == "auto" and fusing.decision() is None and self._is_long(broadcast, work):
            return self._sequential.run(broadcast, work)
        audit = fusing.due_audit(len(work.clients))
        started = self._clock()
        try:
            if self._fused is None:
                self._fused = FusedRunner(self._sequential)
            result = self._fused.run(broadcast, work)
        except (torch.OutOfMemoryError, *BREAKS):  # of a GPU: the pool runs it again, beside fewer
            raise
        except BaseException as error:  # a user's method may fail in any way on a tensor that stands for many
            expected = self._sequential.run(broadcast, work)  # her own mistakes are raised here, with their client
            fusing.failed(error)
            return expected
        return result if audit is None else self._audited(broadcast, work, result, audit, self._clock() - started)

    def _audited(
        self, broadcast: Broadcast, work: CohortWork, found: CohortResult, rows: slice, cold_s: float
    ) -> CohortResult:
        """These rows again, client by client; what differs is not used, and what does not pay not again."""
        started = self._clock()
        expected = self._sequential.run(broadcast, work_of_rows(work, rows))
        one_by_one_s = self._clock() - started
        difference = difference_of(expected, result_of_rows(found, rows))
        if difference is not None and self._on_cpu:
            self._fusing.give_up(f"fused, {difference} is not what it is client by client")
            return expected if expected.clients == work.clients else self._sequential.run(broadcast, work)
        if self._fusing.decision() is None:  # all its rows: later audits come when it is decided
            if self._fusing.fuse == "auto":
                self._time(broadcast, work, cold_s, one_by_one_s)
            else:
                self._fusing.decide(True, cold_s, one_by_one_s)
        self._fusing.passed()
        return found

    def _clock(self) -> float:
        """Seconds of this thread's own on a CPU; where a GPU computes beside it, those of the wall."""
        return time.thread_time() if self._on_cpu else time.perf_counter()

    def _seconds(self, call: Callable[[], object]) -> float:
        started = self._clock()
        call()
        return self._clock() - started

    def _time(self, broadcast: Broadcast, work: CohortWork, fused_s: float, one_by_one_s: float) -> None:
        """Decide whether it pays."""
        fused = self._fused
        assert fused is not None
        fused_s, one_by_one_s = shortest(
            fused_s,
            one_by_one_s,
            lambda: self._seconds(lambda: fused.run(broadcast, work)),
            lambda: self._seconds(lambda: self._sequential.run(broadcast, work)),
        )
        self._fusing.decide(fused_s <= _FASTER * one_by_one_s, fused_s, one_by_one_s)

    def _is_long(self, broadcast: Broadcast, work: CohortWork) -> bool:
        """Whether the operations of a client are so long that there is nothing to gain: then nothing is tried."""
        if not self._on_cpu:
            return False
        alone = work_of_rows(work, slice(0, 1))
        with _Counting() as counting:
            long_s = self._seconds(lambda: self._sequential.run(broadcast, alone))
        operations = _OPERATIONS * max(1, counting.calls)
        if long_s > _LONG_OPERATION_S * operations:  # or it was only the first time
            long_s = self._seconds(lambda: self._sequential.run(broadcast, alone))
        each_s = long_s / operations
        if each_s > _LONG_OPERATION_S:
            self._fusing.give_up(f"an operation takes {1000 * each_s:.2g} ms: clients together gain nothing on a CPU")
            return True
        return False


class _Counting(TorchFunctionMode):
    """Counts calls of torch. (A dispatch mode would count operations, and import torch's compiler: 2.5 s.)"""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def shortest(
    fused_s: float, one_by_one_s: float, time_fused: Callable[[], float], time_one_by_one: Callable[[], float]
) -> tuple[float, float]:
    """What a cohort takes both ways, out of what it took the first time, and of further times where that is not clear.

    A first time is slower than the rest, so whichever way seems to lose is tried again.
    """
    fused_left = one_by_one_left = _TRIES
    while True:
        if fused_s > _FASTER * one_by_one_s and fused_left:
            fused_left -= 1
            fused_s = min(fused_s, time_fused())
        elif 0.5 * one_by_one_s < fused_s <= _FASTER * one_by_one_s and one_by_one_left:
            one_by_one_left -= 1
            one_by_one_s = min(one_by_one_s, time_one_by_one())
        else:
            return fused_s, one_by_one_s


def why(error: BaseException) -> str:
    """One line that says why something cannot be fused."""
    if isinstance(error, CannotFuseError):
        return str(error)
    operation, place = _operation_of(error)
    text = str(error).strip().splitlines()
    cause = type(error).__name__ + (f": {text[0]}" if text else "")
    return f"{operation} cannot be done for many clients at once ({f'{place}: ' if place else ''}{cause})"


def _operation_of(error: BaseException) -> tuple[str, str]:
    """The function of torch that raised, in words, and the line of hers that called it ("" if neither is known)."""
    operation, place = "something in its local work", ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__", "")).startswith(USER_MODULE):
            place = as_she_named(f"{frame.f_code.co_filename}:{line}")
        if frame.f_code.co_name == "__torch_function__" and callable(func := frame.f_locals.get("func")):
            operation = f'"{getattr(func, "__name__", func)}"'
    return operation, place


__all__ = ["ChosenRunner", "Decision", "Fuse", "Fusing", "shortest", "why"]
