"""ResNet-18 for small pictures: its size, its stem, its norms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fl_core import plugins
from fl_core.errors import PlugInError


def built(seed: int = 1, **options: Any) -> nn.Module:
    """The model for CIFAR10's shapes, as the problem builds it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = plugins.resolve("model", "resnet18")(inputs=(3, 32, 32), outputs=10, **options)
    return model


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_published_number_of_parameters(norm: str) -> None:
    """11,173,962 for CIFAR10, whichever norm; and no buffer, which no client could share."""
    model = built(norm=norm)
    assert sum(p.numel() for p in model.parameters()) == 11_173_962
    assert not list(model.buffers())


def test_small_pictures_stay_large() -> None:
    """The first block sees 32x32 pixels and the last 4x4, where torchvision's own stem would leave 8x8 and 1x1."""
    model, seen = built(), {}
    for name in ("layer1", "layer4"):
        block = model.get_submodule(name)
        block.register_forward_hook(lambda _m, _x, out, name=name: seen.update({name: tuple(out.shape[-2:])}))
    with torch.no_grad():
        assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert seen == {"layer1": (32, 32), "layer4": (4, 4)}


@pytest.mark.parametrize(("norm", "alone"), [("batch", False), ("group", True)])
def test_what_a_sample_depends_on(norm: str, alone: bool) -> None:
    """With "group" the outputs of a sample are its own; with "batch" they depend on the batch, in evaluation too."""
    model, x = built(norm=norm).eval(), torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        apart = float((model(x)[:2] - model(x[:2])).abs().max())
    assert (apart < 1e-4) is alone


def test_the_start_is_a_function_of_the_seed() -> None:
    """Equal seeds, equal parameters, other seeds, others: the stem's too."""
    one, two, other = built(1).state_dict(), built(1).state_dict(), built(2).state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])


@pytest.mark.parametrize("shape", [(3072,), (32, 32)])
def test_it_needs_pictures(shape: tuple[int, ...]) -> None:
    """A flat sample is refused in words."""
    with pytest.raises(PlugInError, match='the model "resnet18" needs pictures'):
        plugins.resolve("model", "resnet18")(inputs=shape, outputs=10)
