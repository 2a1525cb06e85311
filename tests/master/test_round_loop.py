"""The round loop with a local pool: the reference's bytes, stops, failures, and what happens beside the rounds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pytest
import torch

from algorithms.fedavg import FedAvg
from fl_core.execution.pool import DevicePool, parse_devices
from fl_core.experiment.schema import SourceFile
from fl_core.metrics import evaluate
from fl_core.reference import run_reference
from fl_core.session import Session, open_session
from master import evaluations, events
from master.checkpoint import Checkpoint
from master.cluster import Cluster
from master.local_executor import LocalExecutor
from master.outcome import Outcome
from master.round_loop import RoundLoop
from tests.conftest import small_experiment

pytestmark = pytest.mark.timeout(60)


class Bench:
    """A cluster with (or without) a pool, and what a loop on it tells and saves."""

    def __init__(self) -> None:
        self.told: list[events.Event] = []
        self.saved: list[Checkpoint] = []
        self.cluster = Cluster(self.told.append)
        self.pool = DevicePool(parse_devices("cpu"), 2)

    def join_pool(self) -> None:
        self.cluster.join(LocalExecutor(self.cluster, self.pool))

    def loop(self, session: Session, wire_bytes: Callable[[], tuple[int, int]] = lambda: (0, 0)) -> RoundLoop:
        self.cluster.open_run("r", session)
        return RoundLoop("r", session, self.cluster, self.saved.append, wire_bytes)

    def of(self, kind: type[events.Event]) -> list[Any]:
        return [event for event in self.told if isinstance(event, kind)]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """With a local pool."""
    made = Bench()
    made.join_pool()
    yield made
    await made.cluster.close()
    await asyncio.to_thread(made.pool.close)


@pytest.fixture
async def deserted() -> AsyncIterator[Bench]:
    """With nobody to run a task."""
    made = Bench()
    yield made
    await made.cluster.close()


def reference_x(session: Session, rounds: int) -> torch.Tensor:
    """The model after so many rounds, by the specification."""
    found = [server.x.clone() for server, _ in run_reference(session)]
    return found[rounds - 1]


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop's tasks and threads go on until it holds."""
    while not condition():
        await asyncio.sleep(0.001)


async def test_ends_with_the_bytes_of_the_reference(bench: Bench) -> None:
    """And tells each round once, the starting point as round 0, with its evaluation."""
    session = open_session(small_experiment())
    outcome = await bench.loop(session).run()
    assert (outcome.reason, outcome.rounds) == ("finished", 3)
    assert torch.equal(outcome.x, reference_x(session, 3))
    assert not torch.equal(outcome.x, reference_x(session, 2))
    assert [event.round for event in bench.of(events.RoundFinished)] == [0, 1, 2, 3]
    assert sorted(event.round for event in bench.of(events.Evaluated)) == [0, 1, 2, 3]
    assert outcome.metrics["f"] == bench.of(events.Evaluated)[-1].metrics["f"]
    assert [saved.round for saved in bench.saved] == [3]


@dataclass(frozen=True)
class Deliberating(FedAvg):
    """FedAvg whose server thinks for a while about who takes part in round 2."""

    def participants(self, server: Any, sampled: tuple[int, ...]) -> tuple[int, ...]:
        if server.round == 2:
            THINKING.set()
            DECIDED.wait(30)
        return sampled


THINKING, DECIDED = threading.Event(), threading.Event()


async def test_a_stop_between_rounds_is_heard(bench: Bench) -> None:
    """It comes while the next round is being prepared, when nobody is left to run it: it must not wait for them."""
    THINKING.clear()
    DECIDED.clear()
    session = replace(open_session(small_experiment()), algorithm=Deliberating())
    loop = bench.loop(session)
    running = asyncio.create_task(loop.run())
    await until(THINKING.is_set)
    for executor in list(bench.cluster.executors.values()):
        bench.cluster.lose(executor)
    loop.stop()
    DECIDED.set()
    outcome = await running
    assert (outcome.reason, outcome.rounds) == ("stopped", 1)
    assert torch.equal(outcome.x, reference_x(open_session(small_experiment()), 1))
    assert [saved.round for saved in bench.saved] == [1]


async def test_a_stop_ends_a_round_that_nobody_runs(deserted: Bench) -> None:
    """Without any executor the run waits, says so, and can be stopped; there is nothing to save."""
    loop = deserted.loop(open_session(small_experiment()))
    running = asyncio.create_task(loop.run())
    await until(lambda: deserted.of(events.WaitingForWorkers))
    loop.stop()
    outcome = await running
    assert (outcome.reason, outcome.rounds) == ("stopped", 0)
    assert deserted.saved == []


async def test_a_resumed_loop_goes_on(bench: Bench) -> None:
    """From a checkpoint it runs the rounds that are left, with totals that go on, and ends with the same bytes."""
    session = open_session(small_experiment(checkpoint={"every": 2}))
    whole = await bench.loop(session).run()
    at_two = bench.saved[0]
    assert at_two.round == 2
    bench.told.clear()
    loop = bench.loop(session)
    loop.resume(at_two)
    rest = await loop.run()
    assert torch.equal(rest.x, whole.x)
    assert [event.round for event in bench.of(events.RoundFinished)] == [3]
    for name in ("oracle_calls", "bits_up", "bits_down"):
        assert rest.metrics[name] == whole.metrics[name] > 0


class SlowEvaluation:
    """The real evaluation, which waits for the test in one of its calls."""

    def __init__(self, waits_in_call: int) -> None:
        self.go_on = threading.Event()
        self._calls = 0
        self._waits_in_call = waits_in_call

    def __call__(self, *arguments: Any) -> dict[str, float]:
        self._calls += 1
        if self._calls == self._waits_in_call:
            self.go_on.wait(30)
        return evaluate(*arguments)


async def test_a_checkpoint_waits_for_the_evaluation_before_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in between, the resumed run would not measure that round again: its line would be missing for ever."""
    evaluation = SlowEvaluation(waits_in_call=2)  # of round 1; the first is of round 0
    monkeypatch.setattr(evaluations, "evaluate", evaluation)
    loop = bench.loop(open_session(small_experiment(checkpoint={"every": 1}, rounds=2)))
    running = asyncio.create_task(loop.run())
    await until(lambda: loop.rounds_done == 2)
    await until(lambda: len(bench.of(events.Evaluated)) == 1)
    assert bench.saved == []
    evaluation.go_on.set()
    await running
    assert [saved.round for saved in bench.saved] == [1, 2, 2]


async def test_a_checkpoint_is_saved_after_the_lines_of_its_rounds(bench: Bench) -> None:
    """Events may wait to be written: before each checkpoint they are, those of its own round among them."""
    flushed, saved = [0], []
    session = open_session(small_experiment(checkpoint={"every": 2}))
    bench.cluster.open_run("r", session)

    def flush() -> None:
        flushed.append(max(event.round for event in bench.of(events.RoundFinished)))

    def save(checkpoint: Checkpoint) -> None:
        saved.append((checkpoint.round, flushed[-1]))

    await RoundLoop("r", session, bench.cluster, save, flush=flush).run()
    assert [round for round, _ in saved] == [2, 3]
    assert all(written >= round for round, written in saved)


async def test_a_slow_disk_holds_the_rounds_up(bench: Bench) -> None:
    """While a checkpoint is being written the next round may be run, but is not over: one is waited for, not many."""
    written, saved = threading.Event(), list[int]()

    def save(checkpoint: Checkpoint) -> None:
        assert written.wait(50)
        saved.append(checkpoint.round)

    session = open_session(small_experiment(rounds=4, checkpoint={"every": 1}))
    bench.cluster.open_run("r", session)
    loop = RoundLoop("r", session, bench.cluster, save)
    running = asyncio.create_task(loop.run())
    await until(lambda: loop.rounds_done == 2)
    for _ in range(100):  # of the event loop: the round would be told of in one or two
        await asyncio.sleep(0)
    assert [event.round for event in bench.of(events.RoundFinished)] == [0, 1]
    written.set()
    assert (await running).reason == "finished"
    assert saved == [1, 2, 3, 4, 4]


async def test_rounds_do_not_run_away_from_a_slow_evaluation(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: a few models wait to be measured, then the rounds wait."""
    evaluation = SlowEvaluation(waits_in_call=1)
    monkeypatch.setattr(evaluations, "evaluate", evaluation)
    loop = bench.loop(open_session(small_experiment(rounds=40)))
    running = asyncio.create_task(loop.run())
    await until(lambda: len(bench.of(events.RoundFinished)) >= 5)
    for _ in range(100):
        await asyncio.sleep(0)
    assert loop.rounds_done < 10
    evaluation.go_on.set()
    assert (await running).rounds == 40


@pytest.mark.parametrize("slow_call", [2, 3])
async def test_which_round_is_the_last_does_not_depend_on_speed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, slow_call: int
) -> None:
    """With a threshold in `[stop]` the run ends with the first round that reaches it, however late that is known."""
    session = open_session(small_experiment(rounds=30))
    values = [float(evaluate(session.problem, session.problem.oracle("cpu"), server.x, ["f"])["f"])
              for server, _ in run_reference(session)]  # fmt: skip
    threshold = (values[1] + values[2]) / 2
    assert values[2] < threshold < values[1]
    evaluation = SlowEvaluation(waits_in_call=slow_call)
    monkeypatch.setattr(evaluations, "evaluate", evaluation)
    experiment = msgspec.structs.replace(session.experiment, stop={"f": threshold})
    running = asyncio.create_task(bench.loop(replace(session, experiment=experiment)).run())
    await until(lambda: len(bench.of(events.RoundFinished)) >= slow_call)
    evaluation.go_on.set()
    outcome = await running
    assert (outcome.reason, outcome.rounds) == ("finished", 3)


async def test_a_metric_that_is_not_a_number_fails_the_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It diverges: no round after that means anything, and the exit code must not say that all is well."""
    monkeypatch.setattr(evaluations, "evaluate", lambda *arguments: {"f": float("nan")})
    outcome = await bench.loop(open_session(small_experiment(rounds=200))).run()
    assert outcome.reason == "failed"
    assert "round 0: f is NaN" in outcome.text
    assert outcome.rounds < 200


async def test_an_evaluation_that_raises_costs_its_metrics_only(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training goes on, and the user reads what was wrong."""

    def refuse(*arguments: Any) -> dict[str, float]:
        raise RuntimeError("the test set has another shape")

    monkeypatch.setattr(evaluations, "evaluate", refuse)
    outcome = await bench.loop(open_session(small_experiment())).run()
    assert (outcome.reason, outcome.rounds) == ("finished", 3)
    assert [event.metrics for event in bench.of(events.Evaluated)] == [{}] * 4
    assert "the test set has another shape" in bench.of(events.Warned)[0].text


HERS = """
from dataclasses import dataclass
from algorithms.fedavg import FedAvg

@dataclass(frozen=True)
class Hers(FedAvg):
    where: str = ""

    def local_gradient(self, client, x, s):
        if self.where == "client" and (client.id, client.round) == (3, 2):
            return client.gradient(x) * (1 / len([]))
        return client.gradient(x)

    def server_gradient(self, server, replies):
        if self.where == "server" and server.round == 2:
            return replies.mean("delta") * (1 / len([]))
        return super().server_gradient(server, replies)

    def server_global_state(self, server, replies, g):
        if self.where == "late" and server.round == 2:
            raise MemoryError
        return super().server_global_state(server, replies, g)
"""


async def failing(bench: Bench, where: str) -> Outcome:
    """A run of her algorithm that raises in round 2."""
    source = SourceFile.of("algorithm", "hers.py", HERS)
    algorithm = {"name": "hers.py", "where": where}
    experiment = small_experiment(algorithm=algorithm, sources=[msgspec.structs.asdict(source)])
    return await bench.loop(open_session(experiment)).run()


@pytest.mark.parametrize(("where", "line"), [("client", 11), ("server", 16)])
async def test_her_error_is_told_with_her_line(bench: Bench, where: str, line: int) -> None:
    """On a client or on the server: file, line, text and traceback; what was done before is saved."""
    outcome = await failing(bench, where)
    assert (outcome.reason, outcome.rounds) == ("failed", 1)
    assert f"hers.py:{line}: ZeroDivisionError: division by zero" in outcome.text
    assert "(1 / len([]))" in outcome.text
    assert ("(client 3)" in outcome.text) == (where == "client")
    assert [saved.round for saved in bench.saved] == [1]


async def test_a_turn_that_fails_in_mid_step_is_not_saved(bench: Bench) -> None:
    """The server's optimizer has stepped and x has not: a resumed run would end with other bytes."""
    outcome = await failing(bench, "late")
    assert (outcome.reason, outcome.rounds) == ("failed", 1)
    assert "MemoryError" in outcome.text
    assert bench.saved == []


async def test_wire_bytes_are_the_run_s_own(bench: Bench) -> None:
    """What earlier runs sent over the same sockets does not count; a resumed run goes on counting."""
    carried = iter([(1000, 2000), (1001, 2010), (1002, 2020), (1003, 2030)])
    session = open_session(small_experiment(checkpoint={"every": 1}))
    await bench.loop(session, lambda: next(carried)).run()
    measured = [event.metrics for event in bench.of(events.RoundFinished)][1:]
    assert [m["wire_bytes_sent"] for m in measured] == [1, 2, 3]
    assert [m["wire_bytes_received"] for m in measured] == [10, 20, 30]
    anew = iter([(5, 7), (105, 207)])
    loop = bench.loop(session, lambda: next(anew))
    loop.resume(bench.saved[1])
    bench.told.clear()
    await loop.run()
    (last,) = bench.of(events.RoundFinished)
    assert (last.metrics["wire_bytes_sent"], last.metrics["wire_bytes_received"]) == (102, 220)
