"""BatchNorm's three meanings: what is kept, what travels, what an evaluation uses; the same on any executor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from fl_core.errors import ExperimentError, PlugInError
from fl_core.execution.choice import ChosenRunner, Fusing
from fl_core.models.norm import AveragedBatchNorm, FrozenBatchNorm, layer_of, refuse_running_statistics
from fl_core.oracle import Oracle, flatten
from fl_core.reference import run_reference
from fl_core.session import Session

CHANNELS = 3


def batches(count: int, m: int = 5) -> list[torch.Tensor]:
    """Pictures `[m, 3, 4, 4]` whose channels are neither centred nor of variance 1."""
    source = torch.Generator().manual_seed(1)
    scale, shift = torch.tensor([0.5, 2.0, 3.0]).view(3, 1, 1), torch.tensor([1.0, -2.0, 0.3]).view(3, 1, 1)
    return [torch.randn(m, CHANNELS, 4, 4, generator=source) * scale + shift for _ in range(count)]


def network(layer: nn.Module) -> nn.Sequential:
    """The layer, the mean of each channel, and two classes."""
    torch.manual_seed(1)
    return nn.Sequential(layer, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 2))


@pytest.mark.parametrize("lr", [0.1, 0.3])
def test_averages_are_torch_s_running_statistics(lr: float) -> None:
    """Plain SGD on x moves weights and statistics as torch.nn.BatchNorm2d(momentum=lr) does with its buffers."""
    plain, labels = network(nn.BatchNorm2d(CHANNELS, momentum=lr)), torch.tensor([0, 1, 1, 0, 1])
    model = network(AveragedBatchNorm(CHANNELS))
    optimizer = torch.optim.SGD(plain.parameters(), lr=lr)
    oracle = Oracle(model, functional.cross_entropy, None, torch.float32)
    x = oracle.flat.clone()
    for inputs in batches(6):
        optimizer.zero_grad()
        functional.cross_entropy(plain(inputs), labels).backward()
        optimizer.step()
        x = x - lr * oracle.gradient(x, inputs, labels)[0]
    oracle.outputs(x, inputs)  # puts x into the replica
    for ours, theirs in (("average_mean", "running_mean"), ("average_variance", "running_var"), ("weight", "weight")):
        torch.testing.assert_close(getattr(model[0], ours), getattr(plain[0], theirs))
    torch.testing.assert_close(oracle.outputs(x, inputs), plain.eval()(inputs).detach())


def test_averages_are_at_rest_at_the_mean_of_the_batches() -> None:
    """Their gradients over several batches add up to zero exactly where they are the mean of the statistics."""
    model = network(AveragedBatchNorm(CHANNELS))
    oracle = Oracle(model, functional.cross_entropy, None, torch.float64)
    seen = [inputs.double() for inputs in batches(4)]
    with torch.no_grad():
        model[0].average_mean.copy_(torch.stack([b.mean((0, 2, 3)) for b in seen]).mean(0))
        model[0].average_variance.copy_(torch.stack([b.var((0, 2, 3)) for b in seen]).mean(0))
    x, labels = oracle.flat.clone(), torch.tensor([0, 1, 1, 0, 1])
    total = torch.stack([oracle.gradient(x, inputs, labels)[0] for inputs in seen]).sum(0)
    is_statistic = flatten(
        [torch.full_like(p, float("average" in name)) for name, p in model.named_parameters()], torch.float64, "cpu"
    ).bool()
    assert float(total[is_statistic].abs().max()) < 1e-12
    assert float(total[~is_statistic].abs().max()) > 1e-3


def test_an_evaluation_differentiates_weights_alone() -> None:
    """grad_norm is that of the loss with the statistics held: their coordinates are zero."""
    oracle = Oracle(network(AveragedBatchNorm(CHANNELS)), functional.cross_entropy, None, torch.float32)
    g, _ = oracle.evaluated_gradient(oracle.flat.clone(), batches(1)[0], torch.tensor([0, 1, 1, 0, 1]))
    assert not g[2 * CHANNELS : 4 * CHANNELS].any()
    assert g[: 2 * CHANNELS].any()


def test_a_negative_variance_counts_as_zero() -> None:
    """What a compressor may make of a variance gives numbers, not NaN."""
    layer = AveragedBatchNorm(CHANNELS).eval()
    with torch.no_grad():
        layer.average_variance.fill_(-1)
        assert torch.isfinite(layer(batches(1)[0])).all()


def test_one_value_a_channel_has_no_variance() -> None:
    """A batch of one pixel is refused as torch's BatchNorm refuses it."""
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        AveragedBatchNorm(CHANNELS).train()(torch.ones(1, CHANNELS, 1, 1))


def test_frozen_is_a_scale_and_a_shift() -> None:
    """y = weight x + bias (variance 1 + eps), in training mode too, and nothing it keeps ever changes."""
    layer = FrozenBatchNorm(CHANNELS)
    x = batches(1)[0]
    nn.Sequential(layer).train()(x)
    assert torch.equal(layer.running_mean, torch.zeros(CHANNELS))
    assert torch.equal(layer.running_var, torch.ones(CHANNELS))
    torch.testing.assert_close(layer(x), x / (1 + layer.eps) ** 0.5)


@pytest.mark.parametrize("channels", [16, 64])
def test_group_norm_has_32_groups_or_as_many_as_there_are_channels(channels: int) -> None:
    """WRN's first layer has 16 channels."""
    layer = layer_of("group", "local")(channels)
    assert isinstance(layer, nn.GroupNorm)
    assert layer.num_groups == min(32, channels)


def test_bn_says_nothing_of_group_norm() -> None:
    """A key that would change nothing is an error."""
    with pytest.raises(ExperimentError, match=r"^\[model\] bn: means nothing with norm = "):
        layer_of("group", "average")


MODEL = """
from torch import nn
from fl_core.models.norm import layer_of

def build(*, inputs, outputs, bn):
    normalised = layer_of("batch", bn)
    return nn.Sequential(
        nn.Conv2d(inputs[0], 4, 3), normalised(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, outputs)
    )
"""


@pytest.fixture
def opened(session: Callable[..., Session]) -> Callable[[str], Session]:
    """A session on six clients with digits and a model of the user's own, for each meaning of `bn`."""

    def open_with(bn: str) -> Session:
        return session(
            {("model", "my_model.py"): MODEL},
            data={"name": "digits", "partition": {"name": "iid"}},
            model={"name": "my_model.py", "bn": bn, "loss": "cross_entropy", "dtype": "float32"},
            clients={"total": 6},
            local={"steps": 2, "batch_size": 8},
            execution={"cohort": 3},
        )

    return open_with


def test_the_server_has_the_mean_of_the_clients_statistics(opened: Callable[[str], Session]) -> None:
    """After rounds of FedAvg the server's statistics lie between those of its start and those of the data."""
    session = opened("average")
    *_, (server, _) = run_reference(session)
    oracle = session.problem.oracle("cpu")
    oracle.outputs(server.x, session.problem.shard(0)[0])
    layer = oracle.model.get_submodule("1")
    assert isinstance(layer, AveragedBatchNorm)
    assert (layer.average_mean != 0).all()
    assert ((layer.average_variance > 0) & (layer.average_variance < 1)).all()


@pytest.mark.parametrize("bn", ["local", "average", "frozen"])
def test_it_means_the_same_in_any_executor(bn: str, opened: Callable[[str], Session], loop: Callable[..., Any]) -> None:
    """The reference, cohorts over the wire, and cohorts as they are chosen to run, fused or not, end with one x."""
    session = opened(bn)
    *_, (server, _) = run_reference(session)
    assert torch.equal(loop(session, over_wire=True).run().x, server.x)
    rounds = loop(session)
    chosen = ChosenRunner(rounds.runner, Fusing("always"))
    rounds.execute = lambda round, work: chosen.run(round.broadcast, work)
    assert torch.equal(rounds.run().x, server.x)


def test_averages_are_counted(opened: Callable[[str], Session], loop: Callable[..., Any]) -> None:
    """Two numbers a channel more, both ways."""
    bits = {}
    for bn in ("local", "average"):
        rounds = loop(opened(bn))
        rounds.run(1)
        bits[bn] = rounds.metrics[0]["bits_up"]
    assert bits["average"] - bits["local"] == 6 * 2 * 4 * 32


RUNNING = """
from torch import nn

def build(*, inputs, outputs, kept=True, frozen=False):
    layer = nn.BatchNorm1d(5, track_running_stats=kept)
    if frozen:
        layer.train = lambda mode=True: nn.Module.train(layer, False)
        layer.eval()
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs[0] * inputs[1] * inputs[2], 5), layer, nn.Linear(5, outputs))
"""


def running(session: Callable[..., Session], **options: bool) -> Session:
    """A session on digits with a BatchNorm of the user's own."""
    return session(
        {("model", "net.py"): RUNNING},
        data={"name": "digits", "partition": {"name": "iid"}},
        model={"name": "net.py", "loss": "cross_entropy", **options},
    )


def test_running_statistics_are_refused_at_set_up(session: Callable[..., Session]) -> None:
    """They would stay with each client: the layer is named, and what to write instead."""
    with pytest.raises(PlugInError, match=r'^net\.py: the layer "2" is a BatchNorm1d .* track_running_stats=False'):
        running(session)


@pytest.mark.parametrize("options", [{"kept": False}, {"frozen": True}])
def test_statistics_that_training_does_not_move_are_not_refused(
    session: Callable[..., Session], options: dict[str, bool]
) -> None:
    """Those of the batch at hand, and a layer that stays in evaluation mode; the check leaves modes as they were."""
    assert running(session, **options).problem.d > 0
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), FrozenBatchNorm(2)).train()).eval()
    model[0].train()
    before = [module.training for module in model.modules()]
    refuse_running_statistics(model, "net.py")
    assert [module.training for module in model.modules()] == before
