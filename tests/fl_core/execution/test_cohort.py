"""A cohort's local work: what it sends back, what it does with randomness, and whom it blames."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from compressors.compressor import Layout
from fl_core.errors import PlugInError, UserCodeError
from fl_core.execution.cohort import (
    FOREIGN_DRAWS,
    METRICS,
    CohortResult,
    CohortRunner,
    CohortWork,
    NonFiniteReplyError,
    decode,
)
from fl_core.randomness import generator, global_state
from fl_core.reference import run_reference
from fl_core.server import Broadcast
from fl_core.session import Session

MakeSession = Callable[..., Session]
MakeLoop = Callable[..., Any]
CPU = torch.device("cpu")
HEAD = """\
from dataclasses import dataclass
import torch
from torch import Tensor
from fl_core import Message, State, zeros
from algorithms.fedavg import FedAvg

@dataclass(frozen=True)
class Mine(FedAvg):
"""
COUNTING = """\
class Memory:
    h: Tensor = zeros()
    visits: int = 0

class Reply:
    delta: Message
    visits: int
    first: float

def local_state(self, client, x0, x, s):
    client.memory.h.add_(1)
    client.memory.visits += 1
    return self.Reply(delta=client.compress(x - x0), visits=client.memory.visits, first=float(x[0]))
"""
MODEL = """\
import torch
from torch.nn import functional

class Net(torch.nn.Module):
    def __init__(self, d):
        super().__init__()
        self.layer = torch.nn.Linear(d, 1)
        self.extra = {extra}
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        {forward}

def build(*, inputs, outputs):
    return Net(inputs[0])
"""


def method(body: str) -> dict[str, Any]:
    """A user's algorithm with this body, and the table that names it."""
    text = HEAD + "".join(f"    {line}\n" for line in body.splitlines())
    return {"files": {("algorithm", "mine.py"): text}, "algorithm": {"name": "mine.py"}}


def net(forward: str = "return self.layer(x)", extra: str = "None") -> dict[str, Any]:
    """A user's model with this forward pass, and the table that names it."""
    text = MODEL.replace("{extra}", extra).replace("{forward}", forward)
    model = {"name": "net.py", "loss": "mse", "dtype": "float64"}
    return {"files": {("model", "net.py"): text}, "model": model}


def runner(s: Session) -> CohortRunner:
    """A runner of its own, on the CPU."""
    return CohortRunner(s.problem, s.algorithm, s.work, CPU, s.user_files())


def broadcast(s: Session, round: int = 1) -> Broadcast:
    """Round 1 at x0, nothing else."""
    return Broadcast(round, s.problem.x0, {})


def work(*clients: int, round: int = 1, memory: dict[str, torch.Tensor] | None = None) -> CohortWork:
    """A cohort's work."""
    return CohortWork(round, 0, clients, memory or {}, {})


def equal(a: CohortResult, b: CohortResult) -> bool:
    """All that is sent, bit for bit."""
    return (
        a.clients == b.clients
        and a.coded.keys() == b.coded.keys()
        and all(np.array_equal(field.payload, b.coded[name].payload) for name, field in a.coded.items())
        and all(torch.equal(stack, b.dense[name]) for name, stack in a.dense.items())
        and all(torch.equal(stack, b.memory[name]) for name, stack in a.memory.items())
    )


# --- results ---------------------------------------------------------------------------------------------------------


def test_what_a_cohort_sends_back(session: MakeSession) -> None:
    """Payloads back to back, dense fields and memories as stacks, a value a client of every metric."""
    s = session(**method(COUNTING), uplink={"name": "randk", "k": 2})
    result = runner(s).run(broadcast(s), work(3, 1, 4))
    assert result.clients == (3, 1, 4)
    assert result.coded.keys() == {"delta"}
    delta = result.coded["delta"]
    assert (delta.call, delta.sizes, delta.payload.nbytes) == (0, (16, 16, 16), 48)
    assert result.dense["visits"].tolist() == [1, 1, 1]
    assert result.dense["first"].dtype == torch.float64
    assert torch.equal(result.memory["h"], torch.ones(3, 6, dtype=torch.float64))
    assert result.memory["visits"].tolist() == [1, 1, 1]
    assert result.bits == 8 * (48 + 3 * 8 + 3 * 8)
    assert result.metrics.keys() == METRICS
    assert result.m == (7, 7, 7)
    assert result.metrics["loss_count"] == result.metrics["oracle_calls"] == [6.0, 6.0, 6.0]
    assert all(value > 0 for value in result.metrics["seconds_s"])


def test_decoding_gives_the_clients_own_values(session: MakeSession, loop: MakeLoop) -> None:
    """The server decodes C(v) itself, from the bytes and each client's key."""
    s = session(uplink={"name": "randk", "k": 2})
    made = loop(s)
    round, works = made.begin(3)
    result = made.run_cohort(round, works[2])
    replies = decode(result, 3, s.work, s.layout)
    assert (replies.clients, replies.m) == (works[2].clients, (7,))
    field = result.coded["delta"]
    key = [generator(1, 3, works[2].clients[0], "compress", 0)]
    expected = s.work.compressor.decode(field.payload, field.sizes, Layout(6, torch.float64), key)
    assert torch.equal(replies.fields["delta"], expected)
    assert int(replies.fields["delta"].count_nonzero()) == 2


@pytest.mark.parametrize("cuts", [((0, 1, 2, 3, 4),), ((0,), (1,), (2,), (3,), (4,)), ((3, 4), (0, 1, 2))])
def test_a_client_s_work_depends_on_nobody_else_s(session: MakeSession, cuts: tuple[tuple[int, ...], ...]) -> None:
    """However clients are grouped and ordered, each sends the same bytes: no trace of the one before."""
    normalised = "torch.nn.BatchNorm1d(4, track_running_stats=False)"
    extra = f"torch.nn.Sequential(torch.nn.Linear(d, 4), {normalised}, torch.nn.Dropout(0.5))"
    forward = "return self.layer(x) + self.extra(x).sum(1, keepdim=True)"
    s = session(**net(forward, extra), uplink={"name": "natural"}, local={"steps": 2, "gradient": "full"})
    alone = {i: runner(s).run(broadcast(s), work(i)).coded["delta"].payload.tobytes() for i in range(5)}
    one = runner(s)
    for cut in cuts:
        field = one.run(broadcast(s), work(*cut)).coded["delta"]
        offsets = np.cumsum([0, *field.sizes])
        for k, i in enumerate(cut):
            assert field.payload[offsets[k] : offsets[k + 1]].tobytes() == alone[i]


def test_buffers_start_anew_for_every_client(session: MakeSession, loop: MakeLoop) -> None:
    """A model that counts in a buffer how often it was asked has forgotten it for the next client, here and there."""
    counting = "self.seen.add_(1); return self.layer(x) * self.seen"
    s = session(**net(counting, "self.register_buffer('seen', torch.zeros(1))"))
    one = runner(s)
    together = one.run(broadcast(s), work(1, 3)).coded["delta"].payload.tobytes()
    alone = [runner(s).run(broadcast(s), work(i)).coded["delta"].payload.tobytes() for i in (1, 3)]
    assert together == alone[0] + alone[1]
    assert one.oracle.model.seen.item() == 2, "two local steps"
    assert torch.equal(loop(s).run().x, by_reference(s))


def test_memories_come_as_rows(session: MakeSession) -> None:
    """A client finds what was kept for it, and sends back what it made of it; the rows that came stay as they are."""
    s = session(**method(COUNTING))
    h = torch.tensor([[10.0], [20.0]], dtype=torch.float64).repeat(1, 6)
    memory = {"h": h.clone(), "visits": torch.tensor([5, 8])}
    result = runner(s).run(broadcast(s), work(0, 2, memory=memory))
    assert torch.equal(result.memory["h"], h + 1)
    assert result.memory["visits"].tolist() == [6, 9]
    assert result.dense["visits"].tolist() == [6, 9]
    assert torch.equal(memory["h"], h)


def test_memories_are_not_changed_when_a_client_fails(session: MakeSession) -> None:
    """A cohort that fails half way leaves the rows that came, so that it can be run again, the same."""
    body = COUNTING.replace("    client.memory.visits += 1\n", "    client.memory.visits += 1 // (client.id != 2)\n")
    s = session(**method(body))
    h = torch.full((2, 6), 10.0, dtype=torch.float64)
    memory = {"h": h.clone(), "visits": torch.tensor([5, 8])}
    one = runner(s)
    with pytest.raises(UserCodeError, match=r"ZeroDivisionError.*client 2"):
        one.run(broadcast(s), work(0, 2, memory=memory))
    assert torch.equal(memory["h"], h)
    assert memory["visits"].tolist() == [5, 8]
    rows = {name: stack[:1] for name, stack in memory.items()}
    assert equal(one.run(broadcast(s), work(0, memory=rows)), runner(s).run(broadcast(s), work(0, memory=rows)))


def test_a_memory_of_another_shape_is_refused_at_once(session: MakeSession) -> None:
    """The client that assigns it is the one that fails, not a later round."""
    s = session(**method(COUNTING.replace("client.memory.h.add_(1)", "client.memory.h = x[:2]")))
    with pytest.raises(PlugInError, match=r"Mine\.Memory\.h starts as .*\[6\] and was given .*\[2\]"):
        runner(s).run(broadcast(s), work(0))


def test_what_comes_is_not_changed(session: MakeSession) -> None:
    """x and the shared fields of the broadcast are everyone's."""
    s = session()
    sent = broadcast(s)
    kept = sent.x.clone()
    runner(s).run(sent, work(0, 1))
    assert torch.equal(sent.x, kept)


# --- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        "client.compress(x - x0) if client.id else [client.compress(x), client.compress(x - x0)][1]",
        "client.compress(x - x0) if client.id else x - x0",
    ],
)
def test_clients_that_send_different_calls_are_refused(session: MakeSession, reply: str) -> None:
    """The receiver re-creates randomness from one call number: another client's would be decoded to nonsense."""
    s = session(**method(f"def local_state(self, client, x0, x, s):\n    return self.Reply(delta={reply})"))
    with pytest.raises(PlugInError, match=r"Mine\.Reply\.delta: all clients of a round must send the same one"):
        runner(s).run(broadcast(s), work(0, 1))


def test_the_second_message_may_be_the_one_that_is_sent(session: MakeSession, loop: MakeLoop) -> None:
    """Which call a message was travels with it."""
    body = (
        "def local_state(self, client, x0, x, s):\n"
        "    client.compress(x)\n"
        "    return self.Reply(delta=client.compress(x - x0))"
    )
    s = session(**method(body), uplink={"name": "randk", "k": 2})
    made = loop(s, over_wire=True)
    assert torch.equal(made.run().x, list(run_reference(s))[-1][0].x)
    assert runner(s).run(broadcast(s), work(0)).coded["delta"].call == 1


@pytest.mark.parametrize(("reply", "kind"), [("None", "NoneType"), ("x - x0", "Tensor")])
def test_a_reply_that_is_none_is_refused(session: MakeSession, reply: str, kind: str) -> None:
    """local_state must return a Reply; the error says what it returned."""
    s = session(**method(f"def local_state(self, client, x0, x, s):\n    return {reply}"))
    with pytest.raises(PlugInError, match=rf"Mine\.local_state must return self\.Reply\(\.\.\.\), not {kind}"):
        runner(s).run(broadcast(s), work(0))


# --- whom it blames --------------------------------------------------------------------------------------------------


def test_a_user_s_error_names_file_line_and_client(session: MakeSession) -> None:
    """The deepest of her own lines, even when torch raised below it, and the whole traceback as text."""
    s = session(**method("def local_gradient(self, client, x, s):\n    y = x[:2]\n    return client.gradient(x) @ y"))
    with pytest.raises(UserCodeError, match=r"mine\.py:11: RuntimeError: .*\(client 3\)") as caught:
        runner(s).run(broadcast(s), work(3))
    assert (caught.value.line, caught.value.client) == (11, 3)
    assert "client.gradient(x) @ y" in caught.value.traceback_text


def test_a_user_s_model_is_blamed_too(session: MakeSession) -> None:
    """Her forward pass is her code."""
    s = session(**net("return self.layer(x)[0, 5]"))
    with pytest.raises(UserCodeError, match=r"net\.py:13: IndexError: .*\(client 1\)"):
        runner(s).run(broadcast(s), work(1))


@pytest.mark.parametrize("bad", ["float('nan')", "float('inf')", "-float('inf')"])
def test_a_reply_that_is_no_number_is_named(session: MakeSession, bad: str) -> None:
    """A dense field with NaN or inf stops the run, with round, client and field."""
    body = (
        "class Reply:\n    delta: Message\n    extra: Tensor\n\n"
        "def local_state(self, client, x0, x, s):\n"
        "    extra = torch.ones(3, 2)\n"
        f"    extra[1, 1] = {bad} if client.id == 4 else 0.0\n"
        "    return self.Reply(delta=client.compress(x - x0), extra=extra)"
    )
    s = session(**method(body))
    with pytest.raises(
        NonFiniteReplyError, match=r"round 2, client 4: Reply\.extra holds NaN or inf; try a smaller step"
    ):
        runner(s).run(broadcast(s, 2), work(1, 4, 0, round=2))


def test_a_message_that_is_no_number_is_named(session: MakeSession) -> None:
    """So does a vector that is to be compressed: a local step size that diverges is said for whom."""
    s = session(local={"steps": 50, "optimizer": {"name": "sgd", "lr": 1e30}})
    with pytest.raises(NonFiniteReplyError, match=r"client 2: compress\(\) was given a vector with NaN or inf"):
        runner(s).run(broadcast(s), work(2, 3))


@pytest.mark.parametrize(
    ("line", "name"),
    [("x0.mul_(2)", "x0"), ("client.inputs[0] -= 1", r"client\.inputs"), ("s.c.zero_()", r"s\.c")],
)
def test_what_is_everyone_s_may_not_be_changed(session: MakeSession, line: str, name: str) -> None:
    """A method that writes into x0, a Broadcast field or its data would change other clients' numbers: it fails."""
    body = (
        "class ServerState:\n    c: Tensor = zeros()\n\nclass Broadcast:\n    c: Tensor\n\n"
        "def local_state(self, client, x0, x, s):\n"
        f"    {line}\n"
        "    return self.Reply(delta=client.compress(x - x0))"
    )
    s = session(**method(body))
    sent = Broadcast(1, s.problem.x0.clone(), {"c": torch.ones(6, dtype=torch.float64)})
    with pytest.raises(UserCodeError, match=rf"ChangedInPlaceError: {name} was changed in place.*client 1"):
        runner(s).run(sent, work(1))
    with pytest.raises(UserCodeError, match=rf"ChangedInPlaceError: {name} was changed in place.*client 0"):
        list(run_reference(session(**method(body))))


def test_a_model_that_writes_into_the_data_is_refused(session: MakeSession) -> None:
    """A first layer with inplace=True changes the samples that later rounds read."""
    s = session(**net("return self.layer(functional.relu(x, inplace=True))"), local={"steps": 1, "gradient": "full"})
    with pytest.raises(UserCodeError, match=r"client\.inputs was changed in place"):
        runner(s).run(broadcast(s), work(0))


# --- randomness ------------------------------------------------------------------------------------------------------


def by_reference(s: Session) -> torch.Tensor:
    """The final x of the specification."""
    return list(run_reference(s))[-1][0].x


@pytest.mark.usefixtures("global_generator_untouched")
def test_a_stochastic_model_is_keyed_from_its_first_cohort(session: MakeSession, loop: MakeLoop) -> None:
    """Dropout draws from each client's generator: the reference's bytes, and the threads' generator is left alone."""
    s = session(**net("return functional.dropout(self.layer(x), 0.5)"), rounds=2)
    made = loop(s)
    assert torch.equal(made.run().x, by_reference(s))
    assert made.runner._keyed is True


def test_a_deterministic_model_runs_without_the_mode(session: MakeSession, loop: MakeLoop) -> None:
    """What draws nothing is not slowed down by looking for draws, and gives the same bytes."""
    s = session(**net(), rounds=2)
    made = loop(s)
    assert torch.equal(made.run().x, by_reference(s))
    assert made.runner._keyed is False


def test_a_model_that_begins_to_draw_later_is_noticed(session: MakeSession, loop: MakeLoop) -> None:
    """A cohort that draws for the first time, past the first one, is run again with keys: nothing unkeyed is sent."""
    body = (
        "def local_gradient(self, client, x, s):\n"
        "    g = client.gradient(x)\n"
        "    return g + torch.randn_like(g) if client.round == 3 and client.id == 2 else g"
    )
    s = session(**method(body), rounds=4, execution={"cohort": 1})
    made = loop(s)
    assert torch.equal(made.run().x, by_reference(s))
    assert made.runner._keyed is True


@pytest.mark.parametrize(
    ("forward", "operation"),
    [
        ("return functional.alpha_dropout(self.layer(x), 0.5, True)", "bernoulli_"),
        ("return self.layer(x) + self.extra(x.unsqueeze(1))[0][:, 0, :1]", "bernoulli_"),
    ],
)
def test_what_cannot_be_keyed_is_refused(session: MakeSession, forward: str, operation: str) -> None:
    """Alpha dropout, an LSTM's dropout: the error has operation, file, line and client; no result is sent."""
    s = session(**net(forward, "torch.nn.LSTM(d, 3, 2, dropout=0.5)"))
    with pytest.raises(UserCodeError, match=rf"net\.py:13: UnkeyedDrawError: aten\.{operation}.*\(client 1\)"):
        runner(s).run(broadcast(s), work(1))


@pytest.mark.parametrize("draw", ["numpy.random.rand()", "random.random()"])
def test_draws_of_numpy_and_python_are_told(session: MakeSession, caplog: pytest.LogCaptureFixture, draw: str) -> None:
    """Nobody keys them, so a run's numbers would depend on its threads; said once, in its first cohort."""
    FOREIGN_DRAWS.clear()
    body = f"def local_gradient(self, client, x, s):\n    import numpy, random\n    return client.gradient(x) * {draw}"
    s = session(**method(body))
    runner(s).run(broadcast(s), work(1, 2))
    assert FOREIGN_DRAWS.is_set()
    FOREIGN_DRAWS.clear()
    s = session()
    runner(s).run(broadcast(s), work(1, 2))
    assert not FOREIGN_DRAWS.is_set()


def test_another_thread_that_draws_is_not_this_one_s_fault(session: MakeSession) -> None:
    """A draw elsewhere in the process makes nobody's cohort fail and changes no byte."""
    forward = "self.extra(); return functional.dropout(self.layer(x), 0.5)"
    s = session(**net(forward, "(lambda: None)"))
    expected = runner(s).run(broadcast(s), work(0, 1, 2))
    one = runner(s)

    def meanwhile() -> None:
        other = threading.Thread(target=torch.rand, args=(3,))
        other.start()
        other.join()

    one.oracle.model.__dict__["extra"] = meanwhile
    before = global_state(CPU)
    assert equal(one.run(broadcast(s), work(0, 1, 2)), expected)
    assert not torch.equal(before, global_state(CPU)), "else the test shows nothing"


def test_a_draw_by_the_algorithm_is_keyed_too(session: MakeSession, loop: MakeLoop) -> None:
    """local_state may call torch.rand: the numbers are the client's."""
    body = (
        "def local_state(self, client, x0, x, s):\n"
        "    return self.Reply(delta=client.compress((x - x0) * torch.rand(())))"
    )
    s = session(**method(body))
    torch.manual_seed(5)
    first = loop(s).run().x
    torch.manual_seed(6)
    assert torch.equal(loop(s).run().x, first)
    assert torch.equal(by_reference(s), first)
