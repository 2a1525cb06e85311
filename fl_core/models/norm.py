"""What normalises a channel: BatchNorm, in three defined meanings, or GroupNorm. For models of one's own too:
`from fl_core.models.norm import layer_of`.

torch's BatchNorm keeps running statistics in buffers that no optimizer sees: in a federation each client would have
its own, and what an evaluation uses would depend on who ran where. Here a model has no such buffers. `bn` says which
statistics there are instead, and each of the three is the same for any number of threads and workers:

"local"    Those of the batch at hand, in training and in evaluation (whose batches are 4,096 samples in the test
           set's order, or fewer at its end). Nothing is kept and nothing travels.
"average"  Training uses those of the batch at hand. Beside it, running statistics are coordinates of x: they are
           broadcast, moved by local steps, sent back, averaged, counted in bits and saved as weights are, and an
           evaluation uses them. Their "gradient" is s - (statistics of the batch), so that a plain local step is
           torch's own update with momentum = lr. See `_Statistics`.
"frozen"   Mean 0 and variance 1 for ever: BatchNorm is a scale and a shift a channel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_core.errors import ExperimentError, PlugInError

Norm: TypeAlias = Literal["batch", "group"]
BatchStatistics: TypeAlias = Literal["local", "average", "frozen"]

_GROUPS = 32
"""Wu and He, ECCV 2018, 1803.08494."""


def layer_of(norm: Norm, bn: BatchStatistics) -> Callable[[int], nn.Module]:
    """What makes the layer that normalises `channels` channels of `[m, channels, height, width]`.

    "group" normalises each sample by itself in 32 groups of channels (each channel by itself where there are fewer).

    Raises:
        ExperimentError: `bn` says something of a BatchNorm that is not there.
    """
    if norm == "group":
        if bn != "local":
            raise ExperimentError('means nothing with norm = "group"; leave it out', path="model.bn")
        return lambda channels: nn.GroupNorm(min(_GROUPS, channels), channels)
    kinds: dict[str, Callable[[int], nn.Module]] = {"average": AveragedBatchNorm, "frozen": FrozenBatchNorm}
    return kinds.get(bn, lambda channels: nn.BatchNorm2d(channels, track_running_stats=False))


def refuse_running_statistics(model: nn.Module, name: str) -> None:
    """Raise PlugInError for a layer that, in training, moves running statistics which only an evaluation reads.

    They are no parameters: each client's are put back to their start, nothing brings them to the server, and an
    evaluation would normalise by mean 0 and variance 1 whatever was learnt. `name` is the model's.
    """
    kept = [(place, layer) for place, layer in model.named_modules() if isinstance(layer, _WITH_STATISTICS)]
    if not any(layer.running_mean is not None for _, layer in kept):
        return
    modes = [(module, module.training) for module in model.modules()]
    if not model.training:
        model.train()  # as an oracle does; a layer that stays in evaluation mode is frozen
    found = [(place, layer) for place, layer in kept if layer.running_mean is not None and layer.training]
    for module, mode in modes:
        module.training = mode
    if found:
        place, kind = found[0][0], type(found[0][1]).__name__
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise PlugInError(
            f'{name}: the layer "{place}"{more} is a {kind} with running statistics, which are no parameters: they '
            "would stay with each client, and evaluations would use mean 0 and variance 1. Write "
            f"{kind}(..., track_running_stats=False), or for channels of pictures "
            'layer_of("batch", "average")(channels) or layer_of("batch", "frozen")(channels) of fl_core.models.norm '
            '(docs/models-and-data.md, "norm and bn")'
        )


_WITH_STATISTICS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)


class FrozenBatchNorm(nn.BatchNorm2d):
    """BatchNorm whose statistics stay what they were built with, in training too."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.train()

    def train(self, mode: bool = True) -> FrozenBatchNorm:
        """Stays in evaluation mode, whatever it is asked for."""
        super().train(False)
        return self


class AveragedBatchNorm(nn.BatchNorm2d):
    """BatchNorm whose running mean and variance `[channels]` are parameters, moved by gradients of their own.

    Variances that a compressor or a momentum has made negative count as 0 in an evaluation.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, track_running_stats=False)
        self.average_mean = nn.Parameter(torch.zeros(channels))
        self.average_variance = nn.Parameter(torch.ones(channels))

    def forward(self, input: Tensor) -> Tensor:
        """Normalised by the batch in training, by the averages in evaluation."""
        if not self.training:
            mean, variance = self.average_mean.detach(), self.average_variance.detach().clamp(min=0)
            return functional.batch_norm(input, mean, variance, self.weight, self.bias, False, 0.0, self.eps)
        output = functional.batch_norm(input, None, None, self.weight, self.bias, True, 0.0, self.eps)
        seen = input.detach()
        variance, mean = torch.var_mean(seen, dim=(0, 2, 3))
        normalised: Tensor = _Statistics.apply(output, self.average_mean, self.average_variance, mean, variance)
        return normalised


class _Statistics(torch.autograd.Function):
    """The identity on a layer's output, by whose way the running statistics s get the gradient s - s_batch.

    It is that of |s - s_batch|²/2 with s_batch held fixed, whatever the loss: x - lr g has
    s <- (1 - lr) s + lr s_batch, which is torch.nn.BatchNorm2d(momentum=lr).
    It is 0 at the mean over clients of their batches' statistics, so methods that estimate or correct gradients do
    right by these coordinates too.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(output: Tensor, mean: Tensor, variance: Tensor, *batch: Tensor) -> Tensor:
        return output.view_as(output)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        _, mean, variance, batch_mean, batch_variance = inputs
        ctx.save_for_backward(mean - batch_mean, variance - batch_variance)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        towards_mean, towards_variance = ctx.saved_tensors
        return cotangents[0], towards_mean, towards_variance, None, None


__all__ = ["AveragedBatchNorm", "BatchStatistics", "FrozenBatchNorm", "Norm", "layer_of", "refuse_running_statistics"]
