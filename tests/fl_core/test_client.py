"""One client in one round: its samples, its steps, its pseudo-gradients and its messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compressors.compressor import Compressor, Layout
from compressors.identity import Identity
from compressors.natural import Natural
from compressors.randk import RandK
from compressors.topk import TopK
from fl_core.algorithm import Algorithm
from fl_core.client import Client, LocalWork, UnreadMessage, total_loss, total_losses
from fl_core.errors import ExperimentError
from fl_core.estimators import Estimator
from fl_core.losses import loss
from fl_core.oracle import Oracle
from fl_core.randomness import generator
from fl_core.regularizers import L2

D, M, SEED, ROUND = 8, 10, 4, 2
SGD = ("sgd", {"lr": 0.1})


def oracle() -> Oracle:
    """Least squares with an l2 regulariser: f_i(x) = (1/m)|Ax - b|² + |x|²/10."""
    return Oracle(nn.Linear(D, 1, bias=False).double(), loss("mse"), L2(0.2), torch.float64)


def shard(i: int) -> tuple[Tensor, Tensor]:
    """Ten samples of client i."""
    source = torch.Generator().manual_seed(i)
    return (
        torch.randn(M, D, dtype=torch.float64, generator=source),
        torch.randn(M, dtype=torch.float64, generator=source),
    )


def estimator(steps: int = 3, kind: str = "minibatch", tau: int | None = None) -> Estimator:
    """Four samples a step."""
    return Estimator(kind, 4, tau, None, steps)


def client(
    i: int = 3,
    steps: int = 3,
    optimizer: tuple[str, dict[str, Any]] = SGD,
    compressor: Compressor | None = None,
    kind: str = "minibatch",
) -> Client:
    """Client i, fresh."""
    work = LocalWork(estimator(steps, kind, 4), optimizer, compressor or Identity(), SEED)
    return Client(i, ROUND, shard(i), None, work, oracle())


def point(seed: int = 0) -> Tensor:
    """Some x `[d]`."""
    return torch.randn(D, dtype=torch.float64, generator=torch.Generator().manual_seed(100 + seed))


def by_hand(x: Tensor, i: int = 3, step: int | None = None, kind: str = "minibatch") -> Tensor:
    """∇f_i at x on the samples of a step (None: all), written out."""
    a, b = shard(i)
    if step is not None:
        chosen = estimator(kind=kind, tau=4).indices(M, (SEED, ROUND, i), step)
        assert chosen is not None
        a, b = a[chosen], b[chosen]
    return 2 / len(b) * a.T @ (a @ x - b) + 0.2 * x


@dataclass(frozen=True)
class Pulled(Algorithm):
    """A local gradient of its own: towards where the client started, as FedProx has it."""

    def local_gradient(self, client: Client, x: Tensor, s: Any) -> Tensor:
        """∇f_i(x) + x - x0."""
        return client.gradient(x) + (x - client.x0)


@dataclass(frozen=True)
class Halved(Algorithm):
    """A step of its own: half as long as [local] says."""

    def client_opt(self, client: Client, x: Tensor, g: Tensor) -> Tensor:
        """x - η_l/2 g."""
        return x - client.lr / 2 * g


@dataclass(frozen=True)
class Watching(Algorithm):
    """Five steps, whatever [local] says; keeps what it sees."""

    seen: list[tuple[int, Tensor]]

    def local_steps(self, client: Client, s: Any) -> int:
        """Five."""
        return 5

    def local_gradient(self, client: Client, x: Tensor, s: Any) -> Tensor:
        """The usual one."""
        self.seen.append((client.steps, client.gradient(x)))
        return self.seen[-1][1]


def test_what_an_algorithm_may_read() -> None:
    """Id, round, number of samples, steps and step size, before anything has run."""
    c = client(5, steps=4)
    assert (c.id, c.round, c.m, c.steps, c.lr) == (5, ROUND, M, 4, 0.1)
    assert (c.oracle_calls, c.loss_count, float(c.loss_sum)) == (0, 0, 0.0)


@pytest.mark.parametrize("kind", ["minibatch", "nice", "multi"])
def test_the_local_steps_of_algorithm_1(kind: str) -> None:
    """run() is x <- x - η_l ∇f_i(x; batch k), k = 0, 1, 2, from x0, which stays as it is."""
    x0 = point()
    x = x0.clone()
    for k in range(3):
        x = x - 0.1 * by_hand(x, step=k, kind=kind)
    c = client(kind=kind)
    found = c.run(Algorithm(), x0, None)
    assert torch.allclose(found, x, rtol=0, atol=1e-13)
    assert torch.equal(x0, point())
    assert torch.equal(c.x0, x0)


def test_the_same_samples_at_two_points_within_a_step() -> None:
    """Whatever point is asked, a step has one batch (MARINA relies on it); the next step has another."""
    c = client()
    x, y = point(1), point(2)
    assert torch.allclose(c.gradient(x), by_hand(x, step=0), rtol=0, atol=1e-13)
    assert torch.allclose(c.gradient(y), by_hand(y, step=0), rtol=0, atol=1e-13)
    h = 1e-6 * torch.eye(D, dtype=torch.float64)
    slopes = torch.stack([(c.loss(x + e) - c.loss(x - e)) / 2e-6 for e in h])
    assert torch.allclose(slopes, by_hand(x, step=0), rtol=0, atol=1e-7), "loss() is of the same batch"
    c.run(Algorithm(), x, None)
    assert torch.allclose(c.gradient(x), by_hand(x, step=3), rtol=0, atol=1e-13), "after three steps, the fourth batch"
    assert not torch.allclose(by_hand(x, step=3), by_hand(x, step=0))


def test_the_full_gradient() -> None:
    """∇f_i over all samples, whatever the step."""
    assert torch.allclose(client().full_gradient(point()), by_hand(point()), rtol=0, atol=1e-13)


def test_what_is_counted() -> None:
    """Sample gradients, and the sum of losses over the samples seen: the mean training loss is their quotient."""
    c, x = client(), point()
    c.gradient(x)
    chosen = estimator().indices(M, (SEED, ROUND, 3), 0)
    a, b = shard(3)
    per_sample = (a @ x - b).square() + 0.1 * x.square().sum()
    assert (c.oracle_calls, c.loss_count) == (4, 4)
    assert float(c.loss_sum) == pytest.approx(float(per_sample[chosen].sum()), rel=1e-13)
    c.full_gradient(x)
    assert (c.oracle_calls, c.loss_count) == (4 + M, 4 + M)
    assert float(c.loss_sum) == pytest.approx(float(per_sample[chosen].sum() + per_sample.sum()), rel=1e-13)
    c.loss(x)
    assert c.oracle_calls == 4 + M, "a loss is no gradient"


def test_the_algorithm_decides_how_many_steps() -> None:
    """local_steps overrules [local], and client.steps is that number from the first step on."""
    method = Watching([])
    c = client(steps=2)
    c.run(method, point(), None)
    assert [steps for steps, _ in method.seen] == [5] * 5
    assert c.steps == 5


# --- pseudo-gradients ------------------------------------------------------------------------------------------------


def test_one_step_s_pseudo_gradient_is_that_gradient_bit_for_bit() -> None:
    """With one plain step nothing is lost to rounding: (x0 - x)/η_l would differ in the last bits."""
    method = Watching([])
    object.__setattr__(method, "local_steps", lambda client, s: 1)
    c, x0 = client(), point()
    x = c.run(method, x0, None)
    assert c.pseudo_gradient(x0, x) is method.seen[0][1]
    assert not torch.equal((x0 - x) / 0.1, method.seen[0][1]), "else the test shows nothing"


def test_the_pseudo_gradient_of_several_steps() -> None:
    """(x0 - x)/(τ η_l)."""
    c, x0 = client(), point()
    x = c.run(Algorithm(), x0, None)
    assert torch.equal(c.pseudo_gradient(x0, x), (x0 - x) / (3 * 0.1))


@pytest.mark.parametrize(
    "optimizer",
    [
        ("sgd", {"lr": 0.1, "weight_decay": 0.5}),
        ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
        ("adam", {"lr": 0.1}),
    ],
)
def test_one_step_of_another_kind(optimizer: tuple[str, dict[str, Any]]) -> None:
    """Where the optimizer does more than x - η_l g, one step's pseudo-gradient is what it did, not g."""
    c, x0 = client(steps=1, optimizer=optimizer), point()
    x = c.run(Algorithm(), x0, None)
    assert torch.equal(c.pseudo_gradient(x0, x), (x0 - x) / 0.1)
    y = point(1)
    assert torch.equal(
        c.pseudo_gradient_at(y), (y - client(steps=1, optimizer=optimizer).run(Algorithm(), y, None)) / 0.1
    )


def test_one_step_of_the_method_s_own() -> None:
    """A ClientOpt of the method's own counts too: half the step is half the pseudo-gradient."""
    c, x0 = client(steps=1), point()
    x = c.run(Halved(), x0, None)
    assert torch.allclose(c.pseudo_gradient(x0, x), by_hand(x0, step=0) / 2, rtol=0, atol=1e-12)
    assert torch.allclose(c.pseudo_gradient_at(point(1)), by_hand(point(1), step=0) / 2, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", [Algorithm(), Pulled(), Halved()])
@pytest.mark.parametrize("optimizer", [SGD, ("sgd", {"lr": 0.1, "momentum": 0.9}), ("adam", {"lr": 0.1})])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_pseudo_gradient_from_another_point_is_that_of_a_second_run(
    method: Algorithm, optimizer: tuple[str, dict[str, Any]], steps: int
) -> None:
    """pseudo_gradient_at(y) is, bit for bit, what a client that started at y would have found."""
    x0, y = point(), point(1)
    c, second = client(steps=steps, optimizer=optimizer), client(steps=steps, optimizer=optimizer)
    x = c.run(method, x0, None)
    kept, calls = x.clone(), c.oracle_calls
    found = c.pseudo_gradient_at(y)
    assert torch.equal(found, second.pseudo_gradient(y, second.run(method, y, None)))
    assert torch.equal(x, kept), "the local point the caller holds must stay"
    assert torch.equal(c.x0, x0)
    assert c.oracle_calls == 2 * calls


def test_the_pseudo_gradient_from_the_same_point() -> None:
    """At x0 itself both agree."""
    for steps in (1, 3):
        c, x0 = client(steps=steps), point()
        x = c.run(Algorithm(), x0, None)
        assert torch.equal(c.pseudo_gradient_at(x0), c.pseudo_gradient(x0, x))


# --- messages --------------------------------------------------------------------------------------------------------


def test_a_message_is_its_bytes() -> None:
    """`value` is what the receiver decodes from `payload` with the client's generator for that call, bit for bit."""
    c = client(compressor=RandK(k=3))
    v = point()
    message = c.compress(v)
    assert message.call == 0
    layout, key = Layout(D, torch.float64), generator(SEED, ROUND, 3, "compress", 0)
    decoded = RandK(k=3).decode(message.payload, [message.payload.nbytes], layout, [key])
    assert torch.equal(decoded[0], message.value)
    assert message.payload.nbytes == 3 * 8


@pytest.mark.parametrize("compressor", [RandK(k=4), Natural()])
def test_each_compression_has_randomness_of_its_own(compressor: Compressor) -> None:
    """Two messages of one client differ, two clients' differ; another attempt of the same client sends the same."""
    v = torch.linspace(1.1, 1.9, D, dtype=torch.float64)
    c, again, other = (client(i, compressor=compressor) for i in (3, 3, 4))
    first, second = c.compress(v), c.compress(v)
    assert (first.call, second.call) == (0, 1)
    assert not torch.equal(first.value, second.value)
    assert not torch.equal(first.value, other.compress(v).value)
    for message in (first, second):
        repeated = again.compress(v)
        assert torch.equal(repeated.value, message.value)
        assert repeated.payload.tobytes() == message.payload.tobytes()


def test_compression_leaves_the_vector_alone() -> None:
    """v stays; the message's value is memory of its own."""
    v = point()
    client().compress(v).value.zero_()
    assert torch.equal(v, point())


def test_a_generator_for_a_purpose() -> None:
    """client.generator is keyed by (seed, round, client, purpose): the same on any machine."""
    found = torch.rand(3, generator=client().generator("mask", 1))
    assert torch.equal(found, torch.rand(3, generator=generator(SEED, ROUND, 3, "mask", 1)))
    assert not torch.equal(found, torch.rand(3, generator=client().generator("mask", 2)))
    assert not torch.equal(found, torch.rand(3, generator=client(4).generator("mask", 1)))


def test_omega_of_the_uplink() -> None:
    """An unbiased operator has one; to ask it of a biased one is the experiment's mistake."""
    assert client(compressor=RandK(k=2)).omega == D / 2 - 1
    with pytest.raises(ExperimentError, match=r"\[uplink\] name: is biased"):
        _ = client(compressor=TopK(k=2)).omega


@pytest.mark.parametrize("steps", [1, 4])
def test_steps_in_place_are_the_steps_one_by_one(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The short way of plain SGD ends in the bits of the long one, with the same losses and pseudo-gradients."""
    work = LocalWork(estimator(steps), SGD, Identity(), SEED)
    replica = Oracle(nn.Linear(D, 1).double(), loss("mse"), None, torch.float64)
    x0, y = torch.randn(2, D + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    replica.gradient(x0, *shard(3))  # from now on it knows that it may
    for short in (True, False):
        if not short:
            monkeypatch.setattr(Oracle, "can_descend", lambda *_: False)
        each = Client(3, ROUND, shard(3), None, work, replica)
        assert replica.can_descend(x0.clone()) is short
        x = each.run(Algorithm(), x0, None)
        g = each.pseudo_gradient(x0, x)
        found.append((x, g, each.pseudo_gradient_at(y), torch.tensor([each.loss_sum, each.loss_count])))
        assert each.oracle_calls == each.loss_count == 2 * 4 * steps - 2 * 2 * (steps // 3)
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_losses_of_several_clients_are_those_of_each() -> None:
    """Added up in order within each client, one of them without a batch; the first decides for all where they lie."""
    losses = [[(torch.tensor(0.1 * k), k) for k in range(1, 4)], [], [(torch.tensor(2.5), 7)]]
    assert total_losses(losses) == [total_loss(each) for each in losses]
    assert total_losses(losses)[1:] == [0.0, 17.5]
    assert total_losses([]) == []


def test_a_message_on_a_device_gives_its_bytes_when_asked() -> None:
    """They are those of an ordinary one, and writing into its value is noticed as there."""
    v = torch.arange(6.0)
    encoded = Identity().encode(v.unsqueeze(0), [torch.Generator()])
    message = UnreadMessage(encoded, 3)
    assert (message.call, message.payload.tobytes()) == (3, v.numpy().tobytes())
    assert message.is_unwritten
    message.value.add_(1)
    assert not message.is_unwritten
