"""What a run leaves behind, round by round, and two ways to run it: the reference, and cohorts over bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fl_core.execution import wire
from fl_core.execution.cohort import CohortResult, CohortRunner, CohortWork, decode
from fl_core.memories import ClientMemories
from fl_core.reference import run_reference
from fl_core.server import Round, Server
from fl_core.session import Session
from fl_core.state import as_dict, initial_values
from fl_core.tensors import bytes_of

_CPU = torch.device("cpu")
_COUNTED = ("clients", "oracle_calls", "bits_up", "bits_down")


@dataclass
class Trajectory:
    """x and the server's state after every round, and what was counted in it."""

    x: list[Tensor] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    counts: list[dict[str, int]] = field(default_factory=list)

    def note(self, server: Server, metrics: Mapping[str, Any]) -> None:
        """Keep copies of what the round has left."""
        self.x.append(server.x.clone())
        self.states.append(copied(as_dict(server.state)))
        self.counts.append({name: int(metrics[name]) for name in _COUNTED if name in metrics})

    def difference(self, other: Trajectory) -> str | None:
        """Where the two first differ by a bit, in words; None if nowhere."""
        for t, (a, b) in enumerate(zip(self.x, other.x, strict=True), start=1):
            if not same(a, b):
                return f"x differs in round {t}, by {_gap(a, b)}"
            for name, value in self.states[t - 1].items():
                theirs = other.states[t - 1].get(name)
                if not same(value, theirs):
                    return f"ServerState.{name} differs in round {t}, by {_gap(value, theirs)}"
            for name, count in self.counts[t - 1].items():
                if name in other.counts[t - 1] and count != other.counts[t - 1][name]:
                    return f"{name} of round {t} is {count} against {other.counts[t - 1][name]}"
        return None


def by_reference(session: Session) -> Trajectory:
    """The specification."""
    found = Trajectory()
    for server, metrics in run_reference(session):
        found.note(server, metrics)
    return found


def by_cohorts(session: Session, *, backwards: bool = False, resumed: Session | None = None) -> Trajectory:
    """As a cluster does it: cohorts on replicas of their own, memories at the master, everything as messages' bytes.

    Args:
        backwards: the last cohort runs first, each on a fresh replica, as tasks do that reach workers in any order.
        resumed: a second session that takes over after half of the rounds, from what a checkpoint keeps.
    """
    cluster = _Cluster(session, backwards)
    found = Trajectory()
    rounds = session.experiment.rounds
    for t in range(1, rounds + 1):
        if resumed is not None and t == rounds // 2 + 1:
            cluster = cluster.taken_over(resumed)
        metrics = cluster.round(t)
        found.note(cluster.server, metrics)
    return found


class _Cluster:
    """One run's server, memories and runner."""

    def __init__(self, session: Session, backwards: bool) -> None:
        self.session, self.backwards = session, backwards
        self.server = session.server()
        declared = initial_values(session.algorithm.Memory, type(session.algorithm).__name__)
        self.memories = ClientMemories(declared, session.problem.d, session.problem.dtype)
        self._runner = self._fresh_runner()

    def taken_over(self, session: Session) -> _Cluster:
        """Another process' cluster, from this one's checkpoint."""
        heir = _Cluster(session, self.backwards)
        heir.server.restore(*self.server.snapshot())
        heir.memories.restore(self.memories.state().tensors)
        return heir

    def round(self, t: int) -> dict[str, float]:
        """One round; the metrics that both ways count."""
        round = self.server.begin_round(t)
        works = self._works(round)
        results = {work.index: self._executed(round, work) for work in (works[::-1] if self.backwards else works)}
        ordered = [results[work.index] for work in works]
        session = self.session
        self.server.finish_round([decode(result, t, session.work, session.layout) for result in ordered])
        for result in ordered:
            self.memories.commit(result.clients, result.memory)
        return {
            "clients": len(round.participants),
            "oracle_calls": sum(sum(result.metrics["oracle_calls"]) for result in ordered),
            "bits_up": sum(result.bits for result in ordered),
            "bits_down": round.broadcast.bits,
        }

    def _works(self, round: Round) -> list[CohortWork]:
        works = []
        for index, cohort in enumerate(round.cohorts):
            own = {name: torch.stack([values[i] for i in cohort]) for name, values in round.broadcast.own.items()}
            works.append(CohortWork(round.number, index, cohort, self.memories.gather(cohort), own))
        return works

    def _executed(self, round: Round, work: CohortWork) -> CohortResult:
        """The cohort's result, its task and itself having gone through their messages."""
        broadcast = wire.broadcast_of(*wire.broadcast_message("check", round.broadcast))
        task = wire.work_of(*wire.task_message("check", work, 0))
        runner = self._fresh_runner() if self.backwards else self._runner
        result = runner.run(broadcast, task)
        return wire.result_of(*wire.result_message("check", task, 0, result))

    def _fresh_runner(self) -> CohortRunner:
        session = self.session
        return CohortRunner(session.problem, session.algorithm, session.work, _CPU, session.user_files())


def copied(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A record's fields in memory of their own."""
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in fields.items()}


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal bit for bit (NaN to itself; 0 and -0 differ)."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bool((bytes_of(a) == bytes_of(b)).all())
    return type(a) is type(b) and (a == b or (a != a and b != b))


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Names of the fields that are no longer the same."""
    return [name for name, value in before.items() if not same(value, after.get(name))]


def _gap(a: Any, b: Any) -> str:
    if isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and a.numel():
        return f"{float((a.double() - b.double()).abs().max()):.3g}"
    return f"{a!r:.60} against {b!r:.60}"


__all__ = ["Trajectory", "by_cohorts", "by_reference", "changed", "copied", "same"]
