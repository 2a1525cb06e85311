"""The server's side of Algorithm 1: rounds that can be given up, what goes down, and checkpoints that go on exactly."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from compressors.compressor import Compressor
from compressors.contraction import contraction
from compressors.identity import Identity
from compressors.randk import RandK
from compressors.topk import TopK
from fl_core import Algorithm, State
from fl_core.errors import PlugInError, UserCodeError
from fl_core.experiment.schema import Experiment
from fl_core.randomness import generator
from fl_core.replies import CohortReplies
from fl_core.server import Round, Server
from tests.fl_core.momentum import D, Method

MakeExperiment = Callable[..., Experiment]


@dataclass(frozen=True)
class Chosen(Method):
    """Takes part: whoever `ids` says."""

    ids: Sequence[Any] = ()

    def participants(self, server: Server, sampled: tuple[int, ...]) -> Sequence[int]:
        """As told."""
        return self.ids


def x0() -> Tensor:
    """The starting point."""
    return torch.linspace(-1, 1, D)


def server(experiment: Experiment, method: Algorithm | None = None, downlink: Compressor | None = None) -> Server:
    """A server at x0."""
    return Server(method or Method(), experiment, x0(), Identity(), downlink or Identity())


def replies_to(round: Round, scale: float = 1.0) -> list[CohortReplies]:
    """What clients might answer: a function of round and client."""
    cohorts = []
    for clients in round.cohorts:
        sources = [torch.Generator().manual_seed(100 * round.number + i) for i in clients]
        deltas = torch.stack([scale * torch.randn(D, generator=source) for source in sources])
        cohorts.append(CohortReplies(clients, (1,) * len(clients), {"delta": deltas}))
    return cohorts


def same_round(a: Round, b: Round) -> bool:
    """Bit for bit."""
    shared = a.broadcast.shared.keys() == b.broadcast.shared.keys() and all(
        torch.equal(torch.as_tensor(v), torch.as_tensor(b.broadcast.shared[k])) for k, v in a.broadcast.shared.items()
    )
    own = a.broadcast.own.keys() == b.broadcast.own.keys() and all(
        torch.equal(v, b.broadcast.own[k][i]) for k, rows in a.broadcast.own.items() for i, v in rows.items()
    )
    return (
        (a.number, a.cohorts, a.broadcast.bits) == (b.number, b.cohorts, b.broadcast.bits)
        and torch.equal(a.broadcast.x, b.broadcast.x)
        and shared
        and own
    )


KINDS: dict[str, tuple[dict[str, Any], Compressor]] = {
    "plain": ({}, Identity()),
    "adam, a schedule and a compressed downlink": (
        {
            "server": {
                "optimizer": {"name": "adam", "lr": 0.1},
                "schedule": {"name": "exponential", "gamma": 0.5},
            }
        },
        contraction(RandK(k=2)),
    ),
    "momentum and Top-K": ({"server": {"optimizer": {"name": "sgd", "lr": 0.5, "momentum": 0.9}}}, TopK(k=2)),
}


def play(s: Server, rounds: int, first: int = 1) -> list[Tensor]:
    """x after each round."""
    found = []
    for t in range(first, first + rounds):
        s.finish_round(replies_to(s.begin_round(t)))
        found.append(s.x.clone())
    return found


# --- rounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_round_given_up_can_be_begun_again(experiment: MakeExperiment, kind: str) -> None:
    """begin_round twice (or another in between) gives the same round, and the run goes on as if it had been once."""
    tables, downlink = KINDS[kind]
    e = experiment(rounds=6, clients={"total": 9, "per_round": 4}, execution={"cohort": 3}, **tables)
    s, other = server(e, downlink=downlink), server(e, downlink=downlink)
    play(s, 2)
    play(other, 2)
    first = s.begin_round(3)
    before = s.snapshot()
    s.begin_round(4)
    again = s.begin_round(3)
    assert same_round(first, again)
    after = s.snapshot()
    assert before[1] == after[1]
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    s.finish_round(replies_to(again))
    play(other, 1, first=3)
    assert torch.equal(s.x, other.x)
    assert torch.equal(play(s, 2, first=4)[-1], play(other, 2, first=4)[-1])


def test_participants_are_cut_into_cohorts(experiment: MakeExperiment) -> None:
    """Sampled by (seed, round), ascending, in cohorts of the experiment's size."""
    s = server(experiment(clients={"total": 20, "per_round": 7}, execution={"cohort": 3}))
    round = s.begin_round(1)
    assert [len(cohort) for cohort in round.cohorts] == [3, 3, 1]
    assert list(round.participants) == sorted(set(round.participants))
    assert round.participants != s.begin_round(2).participants


@pytest.mark.parametrize("ids", [(4, 0, 2), (torch.tensor(4), 2, torch.tensor(0)), range(0, 5, 2), (4, 4, 2, 0, 0)])
def test_a_method_may_choose_who_takes_part(experiment: MakeExperiment, ids: Sequence[Any]) -> None:
    """Its participants are plain integers in ascending order, each once: an id keys random numbers everywhere alike."""
    round = server(experiment(), Chosen(ids=ids)).begin_round(1)
    assert round.participants == (0, 2, 4)
    assert {type(i) for i in round.participants} == {int}


@pytest.mark.parametrize("ids", [(0, 5), (-1, 2)])
def test_a_method_may_not_invent_clients(experiment: MakeExperiment, ids: Sequence[int]) -> None:
    """An id that is no client's is refused before anything is sent."""
    with pytest.raises(PlugInError, match="names a client that is none of the 5"):
        server(experiment(), Chosen(ids=ids)).begin_round(1)


def test_nobody_takes_part(experiment: MakeExperiment) -> None:
    """An empty round sends nothing, and leaves x where it is: G is zero, not NaN."""
    s = server(experiment(), Chosen(ids=()))
    round = s.begin_round(1)
    assert (round.cohorts, round.broadcast.bits, round.broadcast.shared, round.broadcast.own) == ((), 0, {}, {})
    assert s.finish_round([]) == {"direction_norm": 0.0}
    assert torch.equal(s.x, x0())
    assert s.state.count == 1


# --- the server's step -----------------------------------------------------------------------------------------------


def test_a_round_s_end(experiment: MakeExperiment) -> None:
    """x <- x - η_g G with G = -(mean of Δ), ‖G‖ is reported, and the state is the method's next one."""
    s = server(experiment(server={"optimizer": {"name": "sgd", "lr": 0.5}}))
    cohorts = replies_to(s.begin_round(1))
    mean = torch.cat([c.fields["delta"] for c in cohorts]).mean(0)
    found = s.finish_round(cohorts)
    assert torch.allclose(s.x, x0() + 0.5 * mean, rtol=0, atol=1e-7)
    assert found["direction_norm"] == pytest.approx(float(mean.norm()), rel=1e-6)
    assert torch.allclose(s.state.v, -mean, rtol=0, atol=1e-7)
    assert (s.state.count, s.finished_rounds) == (1, 1)


def test_the_state_sees_the_point_the_round_started_from(experiment: MakeExperiment) -> None:
    """In ServerGlobalState server.x is still x^t: MARINA keeps it as the previous point."""
    seen = []

    @dataclass(frozen=True)
    class Looking(Method):
        def server_global_state(self, server: Server, replies: Any, g: Tensor) -> Any:
            seen.append(server.x.clone())
            return server.state

    s = server(experiment(), Looking())
    points = play(s, 2)
    assert torch.equal(seen[0], x0())
    assert torch.equal(seen[1], points[0])


def test_x_is_not_written_to(experiment: MakeExperiment) -> None:
    """A finished x is a tensor of its own: one that is being evaluated or saved does not move."""
    s = server(experiment())
    play(s, 1)
    x = s.x
    kept = x.clone()
    play(s, 2, first=2)
    assert torch.equal(x, kept)


def test_the_schedule_sets_each_round_s_step(experiment: MakeExperiment) -> None:
    """[server] schedule: server.lr is η_g of the round that has begun."""
    s = server(experiment(server={"schedule": {"name": "step", "step_size": 2, "gamma": 0.5}}))
    rates = []
    for t in range(1, 6):
        s.begin_round(t)
        rates.append(s.lr)
    assert rates == [1.0, 1.0, 0.5, 0.5, 0.25]


def test_what_a_method_may_read(experiment: MakeExperiment) -> None:
    """n, d, round, step sizes, the operator, and generators keyed by (seed, round, "server", purpose)."""
    s = server(experiment(clients={"total": 9, "per_round": 4}))
    s.begin_round(3)
    assert (s.n, s.d, s.round, s.lr, s.local_lr, s.per_round) == (9, D, 3, 1.0, 0.1, 4)
    first = torch.rand(2, generator=s.generator("coin"))
    assert torch.equal(first, torch.rand(2, generator=s.generator("coin")))
    s.begin_round(4)
    assert not torch.equal(first, torch.rand(2, generator=s.generator("coin")))


def test_a_method_may_set_its_first_state(experiment: MakeExperiment) -> None:
    """initialize_server_state(x^0) overrules the declared initial values."""

    @dataclass(frozen=True)
    class Starting(Method):
        def initialize_server_state(self, x: Tensor) -> Any:
            return self.ServerState(v=2 * x, count=5)

    s = server(experiment(), Starting())
    assert torch.equal(s.state.v, 2 * x0())
    assert (s.state.count, s.state.rate) == (5, 0.1)


@pytest.mark.parametrize("method", ["initialize_server_state", "participants", "client_state"])
def test_a_mistake_before_the_round_is_the_user_s(experiment: MakeExperiment, method: str) -> None:
    """An exception in one of her methods becomes a UserCodeError that has its text and traceback."""

    def broken(*arguments: Any) -> Any:
        raise ZeroDivisionError("my mistake")

    kind = type("Broken", (Method,), {method: broken})
    with pytest.raises(UserCodeError, match="ZeroDivisionError: my mistake") as caught:
        server(experiment(), kind()).begin_round(1)
    assert "in broken" in caught.value.traceback_text


@pytest.mark.parametrize("method", ["server_gradient", "server_opt", "server_global_state"])
def test_a_mistake_after_the_round_is_the_user_s(experiment: MakeExperiment, method: str) -> None:
    """So does one in the methods that end a round; the round does not count as finished, and x stays."""

    def broken(*arguments: Any) -> Any:
        raise ZeroDivisionError("my mistake")

    s = server(experiment(), type("Broken", (Method,), {method: broken})())
    round = s.begin_round(1)
    with pytest.raises(UserCodeError, match="ZeroDivisionError: my mistake"):
        s.finish_round(replies_to(round))
    assert s.finished_rounds == 0
    assert torch.equal(s.x, x0())
    assert s.is_whole is (method == "server_gradient"), "what comes later finds the optimizer stepped"


# --- what goes down --------------------------------------------------------------------------------------------------


def test_equal_fields_travel_once_and_different_ones_with_their_client(experiment: MakeExperiment) -> None:
    """A field equal for all is shared; one that differs is the client's own. Numbers stay numbers."""
    s = server(experiment())
    sent = s.begin_round(1).broadcast
    assert set(sent.shared) == {"v", "count", "rate"}
    assert sent.shared["v"] is s.state.v
    assert (sent.shared["count"], sent.shared["rate"]) == (0, 0.1)
    assert set(sent.own) == {"mine"}
    assert {i: row.tolist() for i, row in sent.own["mine"].items()} == {i: [float(i)] * 2 for i in range(5)}
    assert torch.equal(sent.x, x0())


def test_the_bits_of_a_broadcast(experiment: MakeExperiment) -> None:
    """x and shared fields are counted once a participant, own ones as they are; numbers have 64 bits."""
    sent = server(experiment()).begin_round(1).broadcast
    x, v, count, rate, mine = 32 * D, 32 * D, 64, 64, 32 * 2
    assert sent.bits == 5 * (x + v + count + rate + mine)


def test_numbers_that_differ_between_clients(experiment: MakeExperiment) -> None:
    """They keep all their bits: 0.1 is not rounded to float32 on its way down."""

    @dataclass(frozen=True)
    class Rates(Method):
        class Broadcast(State):
            rate: float

        def client_state(self, server: Server, client_id: int) -> Any:
            return self.Broadcast(rate=0.1 + client_id)

    own = server(experiment(), Rates()).begin_round(1).broadcast.own["rate"]
    assert [value.item() for value in own.values()] == [0.1 + i for i in range(5)]


@pytest.mark.parametrize("value", [None, "fast", [1.0]])
def test_what_cannot_be_sent_is_refused(experiment: MakeExperiment, value: Any) -> None:
    """A Broadcast field that is neither tensor nor number is an error that names it."""

    @dataclass(frozen=True)
    class Odd(Method):
        class Broadcast(State):
            v: Any

        def client_state(self, server: Server, client_id: int) -> Any:
            return self.Broadcast(v=value)

    with pytest.raises(PlugInError, match=r"Odd\.Broadcast\.v must be a tensor or a number"):
        server(experiment(), Odd()).begin_round(1)


@pytest.mark.parametrize("downlink", [TopK(k=2), contraction(RandK(k=3))])
def test_a_compressed_downlink(experiment: MakeExperiment, downlink: Compressor) -> None:
    """EF21-P: clients hold w <- w + C(x - w), computed from what was sent; all n receive every message."""
    s = server(experiment(rounds=40, clients={"total": 9, "per_round": 3}), downlink=downlink)
    w = x0()
    for t in range(1, 4):
        x = s.x.clone()
        round = s.begin_round(t)
        source = s_generator(s, t)
        message = downlink.encode((x - w).unsqueeze(0), [source])
        w = w + message.value[0]
        assert torch.equal(round.broadcast.x, w)
        assert torch.equal(s.received, w)
        assert torch.equal(s.x, x), "the server's own model is not touched"
        fields = 3 * (32 * D + 64 + 64 + 64)
        first = 9 * 32 * D if t == 1 else 0
        assert round.broadcast.bits == first + 9 * 8 * message.payload.nbytes + fields
        s.finish_round(replies_to(round))


def s_generator(s: Server, t: int) -> torch.Generator:
    """The downlink's randomness, by its key."""
    return generator(s.seed, t, "downlink")


@pytest.mark.parametrize("downlink", [TopK(k=1), contraction(RandK(k=2))])
def test_the_clients_model_converges_to_the_server_s(experiment: MakeExperiment, downlink: Compressor) -> None:
    """While x rests, w comes to it: what a contraction left out is sent later."""
    s = server(experiment(rounds=200), downlink=downlink)
    s.finish_round(replies_to(s.begin_round(1), scale=5.0))
    distances = []
    for t in range(2, 150):
        round = s.begin_round(t)
        distances.append(float((round.broadcast.x - s.x).norm()))
        s.finish_round(replies_to(round, scale=0.0))
    assert distances[0] > 0.5
    assert distances[-1] < 1e-5


# --- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_server_goes_on_exactly(experiment: MakeExperiment, kind: str) -> None:
    """From a snapshot after round 3, rounds 4 to 6 give the very bits of a run that was never stopped."""
    tables, downlink = KINDS[kind]
    e = experiment(rounds=6, clients={"total": 9, "per_round": 4}, **tables)
    whole = server(e, downlink=downlink)
    points = play(whole, 6)
    s = server(e, downlink=downlink)
    play(s, 3)
    tensors, numbers = s.snapshot()
    tensors = {name: value.clone() for name, value in tensors.items()}
    again = server(e, downlink=downlink)
    again.restore(tensors, numbers)
    assert (again.finished_rounds, again.round) == (3, 3)
    assert all(torch.equal(a, b) for a, b in zip(play(again, 3, first=4), points[3:], strict=True))
    assert torch.equal(again.state.v, whole.state.v)
    assert (again.state.count, again.state.rate) == (whole.state.count, whole.state.rate)
    assert torch.equal(again.received, whole.received)


def test_a_snapshot_in_mid_round_is_that_of_the_round_before(experiment: MakeExperiment) -> None:
    """A run stopped while round 4 is under way begins round 4 again, the same."""
    e = experiment(rounds=6, server={"optimizer": {"name": "adam", "lr": 0.1}})
    s = server(e, downlink=TopK(k=2))
    play(s, 3)
    given_up = s.begin_round(4)
    tensors, numbers = s.snapshot()
    assert numbers["round"] == 3
    again = server(e, downlink=TopK(k=2))
    again.restore(tensors, numbers)
    assert same_round(again.begin_round(4), given_up)


def test_a_snapshot_is_not_written_to(experiment: MakeExperiment) -> None:
    """The saver may take its time: going on changes nothing that was handed out."""
    s = server(experiment(rounds=6, server={"optimizer": {"name": "adam", "lr": 0.1}}), downlink=TopK(k=2))
    play(s, 2)
    tensors, _ = s.snapshot()
    kept = {name: value.clone() for name, value in tensors.items()}
    play(s, 2, first=3)
    assert all(torch.equal(tensors[name], kept[name]) for name in kept)
    assert {"x", "received", "state/v", "optimizer/exp_avg"} <= kept.keys()


def test_numbers_of_the_state_are_kept_as_numbers(experiment: MakeExperiment) -> None:
    """They come back with every bit, through JSON too."""
    s = server(experiment())
    play(s, 2)
    tensors, numbers = s.snapshot()
    again = server(experiment())
    again.restore(tensors, json.loads(json.dumps(numbers)))
    assert (again.state.count, again.state.rate) == (2, 0.1 / 3 / 3)
