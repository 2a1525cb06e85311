"""The battery for algorithms: right ones pass whole, and each wrong one fails at the property it breaks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fl_core.contract import AlgorithmSubject, Finding, check_algorithm, read_subject
from protocol.errors import InputError

HEAD = """
from dataclasses import dataclass
from typing import Any
import torch
from torch import Tensor
from fl_core import Algorithm, Client, Message, Replies, Server, State, zeros
{before}
@dataclass(frozen=True)
class Mine(Algorithm):
    alpha: float = 1.0
    class ServerState(State):
        h: Tensor = zeros()
    class Memory(State):
        h_i: Tensor = zeros()
    class Broadcast(State):
        {broadcast}
    class Reply(State):
        m: Message
    def local_state(self, client, x0, x, s):
        {local}
        return self.Reply(m=m)
    def server_gradient(self, server, replies):
        {gradient}
    def server_global_state(self, server, replies, g):
        {state}
"""
RIGHT = {
    "before": "",
    "broadcast": "pass",
    "local": "m = client.compress(client.pseudo_gradient(x0, x) - client.memory.h_i)\n"
    "        client.memory.h_i = client.memory.h_i + self.alpha * m.value",
    "gradient": "return server.state.h + replies.mean('m')",
    "state": "return self.ServerState(h=server.state.h + self.alpha * replies.sum('m') / server.n)",
}
"""DIANA."""

WRONG = {
    "a counter of the module's own": (
        "any order",
        {"before": "calls = []",
         "local": "calls.append(1)\n        " + RIGHT["local"].replace("m.value", "m.value / len(calls)")},
    ),
    "numbers from Python's own generator": (
        "deterministic",
        {"before": "import random", "gradient": "return (server.state.h + replies.mean('m')) * random.random()"},
    ),
    "a list that grows with rounds": (
        "no growth",
        {"state": "return self.ServerState(h=torch.cat([server.state.h, g]))", "gradient": "return replies.mean('m')"},
    ),
    "state in a field nobody declared": (
        "declared fields only",
        {"local": RIGHT["local"] + "\n        client.memory.last = x"},
    ),
    "the shared model moved in place": (
        "nothing in place",
        {"local": "m = client.compress(client.pseudo_gradient(x0, x))\n        x0.add_(0.01)"},
    ),
    "the server's state changed in place": (
        "pure methods",
        {"gradient": "server.state.h.add_(replies.mean('m'))\n        return server.state.h",
         "state": "return server.state"},
    ),
    "replies written to": (
        "pure methods",
        {"gradient": "total = replies.cohorts[0].fields['m'] if len(replies) else server.x[None] * 0\n"
                     "        return total.mul_(0.5).mean(0)"},
    ),
    "the first reply of an empty round": (
        "an empty round",
        {"gradient": "return next(iter(replies)).m"},
    ),
    "a mean over nobody": (
        "an empty round",
        {"gradient": "return replies.sum('m') * torch.tensor(1.0).div(len(replies)).to(server.x.dtype)"},
    ),
    "a direction of float64 whatever the model": (
        "shapes and types",
        {"gradient": "return (server.state.h + replies.mean('m')).double()"},
    ),
    "hidden state in the algorithm": (
        "no hidden state",
        {"gradient": "object.__setattr__(self, 'seen', server.round)\n        return replies.mean('m')"},
    ),
    "two vectors compressed in the wrong order on some": (
        "any order",
        {"local": "a, b = client.compress(x), client.compress(client.pseudo_gradient(x0, x))\n"
                  "        m = b if client.id % 2 else client.compress(client.pseudo_gradient(x0, x))"},
    ),
    "replies that are not finite": (
        "finite replies",
        {"local": "m = torch.full_like(x, float('nan')) if client.round == 2 else x - x0"},
    ),
    "a direction with the wrong sign": ("converges", {"gradient": "return -(server.state.h + replies.mean('m'))"}),
    "a memory of another client, kept by the module": (
        "other clients' memories",
        {"before": "kept = {}",
         "local": "kept[client.id] = client.memory\n        m = client.compress(client.pseudo_gradient(x0, x))\n"
                  "        for memory in kept.values():\n            memory.h_i = memory.h_i + 1"},
    ),
    "state the checkpoint does not have": (
        "resumes",
        {"before": "import weakref\nmeans = weakref.WeakKeyDictionary()",
         "state": "means[server] = g + 0.5 * means.get(server, 0 * g)\n"
                  "        return self.ServerState(h=means[server])"},
    ),
}  # fmt: skip


def subject(tmp_path: Path, name: str = "mine.py", **parts: str) -> AlgorithmSubject:
    """A file with DIANA, some of its parts replaced."""
    path = tmp_path / name
    path.write_text(HEAD.format(**(RIGHT | parts)))
    found = read_subject(str(path))
    assert isinstance(found, AlgorithmSubject)
    return found


def outcomes(findings: list[Finding]) -> dict[str, str]:
    """Property -> outcome."""
    return {finding.property: finding.outcome for finding in findings}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> list[Finding]:
    """The whole battery on DIANA."""
    return list(check_algorithm(subject(tmp_path_factory.mktemp("right"))))


def test_a_right_algorithm_passes_whole_and_follows_gradient_descent(right: list[Finding]) -> None:
    """Every property holds, with its numbers; the facts say what DIANA does."""
    assert {finding.outcome for finding in right} == {"ok", "fact"}
    told = {finding.property: finding.text for finding in right}
    assert told["loads"] == "Mine in mine.py: alpha = 1.0"
    assert told["same as the reference"].startswith("24 runs")
    assert "nobody took part in round" in told["an empty round"]
    assert float(told["gradient descent"].split()[4]) < 1e-14


@pytest.mark.parametrize("wrong", WRONG)
def test_each_wrong_algorithm_fails_at_the_property_it_breaks(tmp_path: Path, right: list[Finding], wrong: str) -> None:
    """And the right one passes there, so that it is the mistake that the check sees."""
    name, parts = WRONG[wrong]
    assert outcomes(right)[name] == "ok"
    found = list(check_algorithm(subject(tmp_path, **parts), [name]))
    assert outcomes(found)[name] == "failed", found


def test_a_failure_names_the_users_line(tmp_path: Path) -> None:
    """The error says which line of which file, and shows its code."""
    found = list(check_algorithm(subject(tmp_path, gradient="return server.sate"), ["one local step"]))
    failed = [finding for finding in found if finding.outcome == "failed"]
    assert "mine.py:" in failed[0].text
    assert "'Server' object has no attribute 'sate'" in failed[0].text
    assert failed[0].text.endswith("<- return server.sate")


def test_nothing_more_is_said_of_a_file_that_does_not_load(tmp_path: Path) -> None:
    """A Memory without an initial value ends the report."""
    path = tmp_path / "mine.py"
    path.write_text(HEAD.format(**RIGHT).replace("h_i: Tensor = zeros()", "h_i: Tensor"))
    found = list(check_algorithm(read_subject(str(path))))  # type: ignore[arg-type]
    assert [finding.outcome for finding in found] == ["failed"]
    assert "Mine.Memory.h_i needs an initial value" in found[0].text


def test_what_a_method_is_not_made_for_is_a_fact(tmp_path: Path) -> None:
    """GradSkip refuses partial participation and compression: no property fails, and its reasons are told."""
    found = list(check_algorithm(read_subject("gradskip"), ["one local step", "an empty round"]))  # type: ignore[arg-type]
    assert outcomes(found)["one local step"] == "ok"
    assert outcomes(found)["an empty round"] == "skipped"
    assert any("needs all 6 clients" in finding.text for finding in found if finding.property == "not made for")


@pytest.mark.parametrize("name", ["marina", "ef21"])
def test_ours_keep_the_contract(name: str) -> None:
    """Methods with memories, coins and first rounds of their own pass what a cluster rests on."""
    wanted = ["any order", "resumes", "pure methods", "messages"]
    found = outcomes(list(check_algorithm(read_subject(name), wanted)))  # type: ignore[arg-type]
    assert set(found.values()) == {"ok"}


def test_options_and_settings_are_taken_and_checked(tmp_path: Path) -> None:
    """`--set` reaches the algorithm and the experiments; a wrong option is refused with the nearest."""
    path = tmp_path / "mine.py"
    path.write_text(HEAD.format(**RIGHT))
    right = read_subject(str(path), ["alpha=0.25", "uplink.name=natural"])
    assert isinstance(right, AlgorithmSubject)
    assert next(check_algorithm(right)).text.endswith("alpha = 0.25")
    wrong = list(check_algorithm(read_subject(str(path), ["alhpa=1"])))  # type: ignore[arg-type]
    assert 'did you mean "alpha"' in wrong[0].text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "holds neither an Algorithm nor a Compressor"),
        (HEAD.format(**RIGHT) + "\nclass Other(Algorithm): pass\n", "exactly one subclass of Algorithm, and has 2"),
    ],
)
def test_a_file_that_is_no_plug_in_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """With what it holds instead."""
    path = tmp_path / "odd.py"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_subject(str(path))


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    """Of plug-ins and of properties."""
    with pytest.raises(InputError, match='did you mean "scaffold"'):
        read_subject("scafold")
    with pytest.raises(InputError, match='did you mean "resumes"'):
        list(check_algorithm(read_subject("dcgd"), ["resume"]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gradient", "outcome", "told"),
    [
        ("return 0.05 * (server.state.h + replies.mean('m'))", "ok", "slowly, by a factor of"),
        ("return 0 * replies.mean('m')", "failed", "it gets nowhere"),
        ("return -(server.state.h + replies.mean('m'))", "failed", "it diverges"),
    ],
)
def test_slow_is_no_fault(tmp_path: Path, gradient: str, outcome: str, told: str) -> None:
    """Speed is told; what fails is divergence, or no decrease at all."""
    file = tmp_path / "mine.py"
    file.write_text(HEAD.format(**RIGHT | {"gradient": gradient}), encoding="utf-8")
    subject = read_subject(str(file))
    assert isinstance(subject, AlgorithmSubject)
    *_, found = check_algorithm(subject, ("converges",))
    assert found.outcome == outcome, found
    assert told in found.text
