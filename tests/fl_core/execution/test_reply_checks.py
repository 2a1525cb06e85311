"""What a client hands over: whose fault it is, which field, what was expected; the same in every path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fl_core.errors import UserCodeError
from fl_core.execution.choice import ChosenRunner, Fusing
from fl_core.execution.cohort import CohortRunner, CohortWork
from fl_core.reference import run_reference
from fl_core.session import Session

MakeSession = Callable[..., Session]
HEAD = """\
import sys
from dataclasses import dataclass
from torch import Tensor
from algorithms.fedavg import FedAvg
from fl_core import Message, State, zeros

@dataclass(frozen=True)
class Mine(FedAvg):
    class Memory(State):
        q: Tensor = zeros()

    class Reply(State):
        delta: Message
        e: Tensor

    def local_state(self, client, x0, x, s):
        e = x.sum()
        {line}
        return self.Reply(delta=client.compress(x - x0), e=e)
"""
FAULTS = {
    "undeclared memory": (
        "client.memory.typo = x",
        r'mine\.py:18: AttributeError: Mine\.Memory has no field "typo" \(it declares q\) \(client 0\)$',
    ),
    "text": (
        "e = 'hello'",
        r"mine\.py:16: Mine\.local_state gave Reply\.e the value 'hello'; a field is .*\(client 0\)$",
    ),
    "nothing": ("e = None", r"mine\.py:16: Mine\.local_state gave Reply\.e the value None; "),
    "lacking": (
        "return self.Reply(delta=client.compress(x))",
        r"mine\.py:18: TypeError: Mine\.Reply was made without e; write Mine\.Reply\(delta=…, e=…\) \(client 0\)$",
    ),
    "matrix": (
        "client.compress(x.reshape(1, -1))",
        r"mine\.py:18: ValueError: client\.compress needs a vector \[d\] = \[6\], not .*\[1, 6\] \(client 0\)$",
    ),
    "written message": (
        "m = client.compress(x - x0); m.value.mul_(2); return self.Reply(delta=m, e=e)",
        r"mine\.py:16: Mine\.local_state changes the value of the message Reply\.delta in place, .*\(client 0\)$",
    ),
    "exit": ("sys.exit(5)", r"mine\.py:18: SystemExit: 5; code that runs within a run .*\(client 0\)$"),
    "other record": (
        "return self.Memory(q=x)",
        r"mine\.py:16: Mine\.local_state must return self\.Reply\(\.\.\.\) with",
    ),
    "shapes": (
        "e = x[: 1 + int(client.id)]",
        r"Mine\.local_state gave Reply\.e the shape \[2\] for client 1 and \[1\] for client 0; .*\(client 1\)$",
    ),
}


def made(session: MakeSession, line: str, **changes: Any) -> Session:
    """A session whose method has this line in its local_state."""
    files = {("algorithm", "mine.py"): HEAD.format(line=line)}
    return session(files, algorithm={"name": "mine.py"}, execution={"cohort": 5, "fuse": "always"}, **changes)


def by_reference(s: Session) -> None:
    """The first round of the specification."""
    next(iter(run_reference(s)))


def by_cohort(s: Session, fused: bool) -> None:
    """The first round's cohort, client by client or as the run would have it."""
    round = s.server().begin_round(1)
    alone = CohortRunner(s.problem, s.algorithm, s.work, torch.device("cpu"), s.user_files())
    runner = ChosenRunner(alone, Fusing("always", None)) if fused else alone
    runner.run(round.broadcast, CohortWork(1, 0, round.cohorts[0], {}, {}))


PATHS: dict[str, Callable[[Session], None]] = {
    "reference": by_reference,
    "sequential": lambda s: by_cohort(s, fused=False),
    "fused": lambda s: by_cohort(s, fused=True),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_with_its_place(session: MakeSession, fault: str, path: str) -> None:
    """File and line, method and field, client: the same text, however the client was run."""
    line, said = FAULTS[fault]
    with pytest.raises(UserCodeError, match=said):
        PATHS[path](made(session, line))


def test_who_leaves_the_interpreter_is_skipped(session: MakeSession, loop: Any) -> None:
    """With on_error = "skip", a client whose code calls sys.exit is left out, in the reference too."""
    s = made(session, "if client.id == 2: sys.exit()", on_error="skip", rounds=1)
    _, metrics = next(iter(run_reference(s)))
    assert (metrics["clients"], metrics["skipped"]) == (4, 1)
    round, works = loop(s).begin(1)
    result = loop(s).run_cohort(round, works[0])
    assert result.clients == (0, 1, 3, 4)
    assert [each.client for each in result.skipped] == [2]
    assert "SystemExit" in result.skipped[0].text


def test_an_interrupt_is_no_mistake_of_the_code(session: MakeSession) -> None:
    """Ctrl-C while a client runs stays what it is."""
    for path in PATHS.values():
        with pytest.raises(KeyboardInterrupt):
            path(made(session, "raise KeyboardInterrupt"))
