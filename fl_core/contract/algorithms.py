"""The battery for an algorithm: every property that running it on threads, workers and after a crash rests on."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Collection, Iterator
from functools import cache
from typing import Any

import torch

from fl_core.algorithm import Algorithm
from fl_core.contract.convergence import FACTS, converges
from fl_core.contract.finding import BrokenError, Check, Finding, NotApplicableError, check_names, findings, judged
from fl_core.contract.probe import Probe
from fl_core.contract.subject import AlgorithmSubject, Scenario
from fl_core.contract.trajectory import Trajectory, by_cohorts, by_reference
from fl_core.errors import ExperimentError
from fl_core.session import Session
from fl_core.state import State, Zeros, fields_of, initial_values

_AXES: Any = ((1, 5), ("full", "uniform", "poisson"), ("identity", "randk"), ("float64", "float32"))
MATRIX = tuple(itertools.starmap(Scenario, itertools.product(*_AXES)))
"""Every combination of one and several steps, three samplings, with and without compression, and two types."""

_PROBED = (
    Scenario(5, "uniform", "randk", "float32"),
    Scenario(1, "poisson", "randk", "float64"),
    Scenario(1, "full", "identity", "float64"),
    Scenario(5, "full", "randk", "float64", gradient="minibatch"),
)


class Bench:
    """The subject with what has been run of it, so that no check runs it again."""

    def __init__(self, subject: AlgorithmSubject) -> None:
        self.subject = subject
        self.refused: dict[str, list[Scenario]] = {}
        self.session = cache(self._session)
        self.reference = cache(self._reference)
        self.probes = cache(self._probes)

    def _session(self, scenario: Scenario) -> Session | None:
        """The scenario's session; None if the algorithm says that it is not made for such an experiment."""
        try:
            return self.subject.session(scenario)
        except ExperimentError as error:
            if (error.path or "").startswith("algorithm"):
                raise  # an option is wrong: no scenario would do
            self.refused.setdefault(error.message, []).append(scenario)
            return None

    def _reference(self, scenario: Scenario) -> Trajectory:
        session = self.session(scenario)
        if session is None:
            raise NotApplicableError(f"not made for {scenario}")
        return by_reference(session)

    def _probes(self) -> list[Probe]:
        sessions = [self.session(scenario) for scenario in _PROBED]
        return [Probe(session) for session in sessions if session is not None]

    def accepted(self, scenarios: Iterator[Scenario] | tuple[Scenario, ...]) -> list[Scenario]:
        """Those that the algorithm takes. NotApplicableError if it takes none."""
        found = [scenario for scenario in scenarios if self.session(scenario) is not None]
        if not found:
            raise NotApplicableError(next(iter(self.refused), "refused"))
        return found


def check_algorithm(subject: AlgorithmSubject, only: Collection[str] = ()) -> Iterator[Finding]:
    """The findings, one after the other; no more after a file that does not load, or declares nothing usable.

    Args:
        only: names of properties to look at, beside those two; all of them if it is empty.

    Raises:
        InputError: a name in `only` that no property has.
    """
    check_names(only, (*_FIRST, *_CHECKS, *FACTS))
    bench = Bench(subject)
    for name, check in _FIRST.items():
        finding = judged(name, check, bench)
        yield finding
        if finding.outcome == "failed":
            return
    yield from findings(_CHECKS, {}, bench, only)
    yield from findings({}, FACTS, subject, only)
    for reason, scenarios in bench.refused.items():
        yield Finding("not made for", "fact", f"{_share(scenarios)}: {reason}")


# --- it loads, and says what it keeps ------------------------------------------------------------


def _loads(bench: Bench) -> str:
    kind = bench.subject.kind
    first = next((s for s in (*_PROBED, *MATRIX) if bench.session(s) is not None), None)
    if first is None:
        raise BrokenError(f"it refuses every experiment: {next(iter(bench.refused))}")
    session = bench.session(first)
    assert session is not None
    algorithm = session.algorithm
    options = {field.name: getattr(algorithm, field.name) for field in dataclasses.fields(algorithm)}
    listed = ", ".join(f"{name} = {value!r}" for name, value in options.items()) or "no options"
    return f"{kind.__name__} in {bench.subject.name}: {listed}"


def _declares(bench: Bench) -> str:
    kind = bench.subject.kind
    told = []
    for record in ("ServerState", "Memory", "Broadcast", "Reply"):
        declared: type[State] = getattr(kind, record)
        if record == "Memory":
            initial_values(declared, kind.__name__)  # raises where a field has none
        told.append(f"{record}({', '.join(_field(declared, name) for name in fields_of(declared))})")
    if not fields_of(kind.Reply):
        raise BrokenError("Reply declares no field: clients would send nothing; write `class Reply(State): m: Message`")
    if kind.initialize_server_state is Algorithm.initialize_server_state:
        initial_values(kind.ServerState, kind.__name__)
    return ", ".join(told)


def _field(record: type[State], name: str) -> str:
    default = record.__dataclass_fields__[name].default
    if isinstance(default, Zeros):
        return f"{name} = zeros{'' if default.shape is None else list(default.shape)}"
    return name if default is dataclasses.MISSING else f"{name} = {default!r}"


# --- it runs ------------------------------------------------------------


def _runs(bench: Bench, scenarios: Iterator[Scenario] | tuple[Scenario, ...]) -> str:
    accepted = bench.accepted(scenarios)
    for scenario in accepted:
        trajectory = bench.reference(scenario)
        for t, x in enumerate(trajectory.x, start=1):
            if not bool(torch.isfinite(x).all()):
                raise BrokenError(f"x holds NaN or inf after round {t} of {scenario}")
    rounds = sum(scenario.rounds for scenario in accepted)
    return f"{len(accepted)} runs, {rounds} rounds: {_share(accepted)}"


def _empty_round(bench: Bench) -> str:
    told = []
    for scenario in bench.accepted(s for s in MATRIX if s.sampling == "poisson"):
        trajectory = bench.reference(scenario)
        empty = [t for t, counts in enumerate(trajectory.counts, start=1) if counts["clients"] == 0]
        told += [f"round {t}" for t in empty]
        for t in empty:
            if not bool(torch.isfinite(trajectory.x[t - 1]).all()):
                raise BrokenError(f"x holds NaN or inf after round {t}, in which nobody took part ({scenario})")
    if not told:
        raise NotApplicableError("its participants() always finds somebody")
    return f"nobody took part in {', '.join(dict.fromkeys(told))} under Poisson sampling, and the run went on"


# --- it gives the same numbers ------------------------------------------------------------


def _same_in_cohorts(bench: Bench) -> str:
    accepted = bench.accepted(MATRIX)
    for scenario in accepted:
        session = bench.session(scenario)
        assert session is not None
        _no_difference(bench.reference(scenario).difference(by_cohorts(session)), scenario)
    return f"{len(accepted)} runs over tasks' and results' bytes: x, ServerState, bits and oracle calls, bit for bit"


def _any_order(bench: Bench) -> str:
    accepted = bench.accepted(_PROBED)
    for scenario in accepted:
        session = bench.session(scenario)
        assert session is not None
        _no_difference(bench.reference(scenario).difference(by_cohorts(session, backwards=True)), scenario)
    return f"{len(accepted)} runs with the last cohort first, each on a fresh replica: the same bytes"


def _deterministic(bench: Bench) -> str:
    accepted = bench.accepted(_PROBED)
    for scenario in accepted:
        again = by_reference(bench.subject.session(scenario))
        _no_difference(bench.reference(scenario).difference(again), scenario)
    return f"{len(accepted)} runs run twice: the same bytes"


def _resumes(bench: Bench) -> str:
    accepted = bench.accepted(_PROBED)
    for scenario in accepted:
        session, heir = bench.session(scenario), bench.subject.session(scenario)
        assert session is not None
        _no_difference(bench.reference(scenario).difference(by_cohorts(session, resumed=heir)), scenario)
    return f"{len(accepted)} runs stopped after half of their rounds, and taken up from a checkpoint: the same bytes"


def _no_difference(text: str | None, scenario: Scenario) -> None:
    if text is not None:
        raise BrokenError(f"{text} ({scenario})")


# --- it touches only what is its own ------------------------------------------------------------


def _probed(about: str, told: str) -> Check[Bench]:
    """A check that the probes have no complaint about something; `told` is filled in with what they counted."""

    def check(bench: Bench) -> str:
        probes = bench.probes()
        complaints = [text for probe in probes for text in probe.complaints.get(about, ())]
        if complaints:
            more = f" (and {len(complaints) - 1} more)" if len(complaints) > 1 else ""
            raise BrokenError(complaints[0] + more)
        counts = Counter({"runs": len(probes), "memories": 0, "values": 0, "rounds": 0})
        for probe in probes:
            counts.update(probe.counts)
        if about == "messages" and not counts["messages"]:
            raise NotApplicableError("it sends tensors, no messages: nothing is compressed (client.compress(v) would)")
        return told.format_map(counts)

    return check


def _no_growth(bench: Bench) -> str:
    told = []
    for probe in bench.probes():
        for position, name in enumerate(("ServerState", "Memory")):
            sizes = [sizes[position] for sizes in probe.sizes]
            if max(sizes[2:]) > max(sizes[:2]):
                raise BrokenError(f"{name} grows: {' -> '.join(map(str, sizes))} bytes from round to round")
        told.append(probe.sizes[-1])
    state, memory = max(told)
    return f"ServerState {state} bytes, Memory {memory} bytes a client, in the last round as in the first (d = 12)"


def _share(scenarios: list[Scenario]) -> str:
    """Which scenarios, by what they have in common."""
    names = {"full": "all clients", "uniform": "3 of 6", "poisson": "Poisson"}
    parts: list[list[str]] = [
        sorted({"1 local step" if s.steps == 1 else f"{s.steps} local steps" for s in scenarios}),
        [name for key, name in names.items() if any(s.sampling == key for s in scenarios)],
        list(dict.fromkeys(s.uplink for s in scenarios)),
        list(dict.fromkeys(s.dtype for s in scenarios)),
    ]
    return "; ".join(" | ".join(part) for part in parts)


_FIRST: dict[str, Check[Bench]] = {"loads": _loads, "declares its state": _declares}
_CHECKS: dict[str, Check[Bench]] = {
    "one local step": lambda bench: _runs(bench, (s for s in MATRIX if s.steps == 1)),
    "several local steps": lambda bench: _runs(bench, (s for s in MATRIX if s.steps > 1)),
    "minibatches": lambda bench: _runs(bench, (s for s in _PROBED if s.gradient == "minibatch")),
    "an empty round": _empty_round,
    "same as the reference": _same_in_cohorts,
    "any order": _any_order,
    "deterministic": _deterministic,
    "resumes": _resumes,
    "other clients' memories": _probed("memories", "{memories} looks at one while another client ran: untouched"),
    "nothing in place": _probed("in place", "x and the Broadcast that all clients share were not written to"),
    "declared fields only": _probed("declared", "no field of state, memory or reply beyond what the records declare"),
    "no hidden state": _probed("hidden", "the algorithm object is as it was"),
    "shapes and types": _probed("shape", "G is [d]; state and memory keep their shapes, in the model's type"),
    "finite replies": _probed("finite", "{values} numbers"),
    "messages": _probed("messages", "{messages} messages ({bytes} bytes) decode to the very values they stand for"),
    "pure methods": _probed("pure", "client_state and the two server methods twice in {rounds} rounds: the same"),
    "no growth": _no_growth,
    "converges": lambda bench: converges(bench.subject),
}

__all__ = ["MATRIX", "Bench", "check_algorithm"]
