"""ResNets, VGGs and wide ResNets for small pictures: published sizes, shapes, norms, what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fl_core import plugins
from fl_core.errors import PlugInError
from fl_core.models._wide_resnet import of_size

PARAMETERS = {
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "resnet50": 23_520_842,
    "resnet101": 42_512_970,
    "resnet152": 58_156_618,
    "vgg11": 9_231_114,
    "vgg13": 9_416_010,
    "vgg16": 14_728_266,
    "vgg19": 20_040_522,
    "wrn28-2": 1_467_610,
    "wrn28-4": 5_849_050,
    "wrn28-8": 23_354_842,
}
"""For 10 classes of 3x32x32: as public implementations for CIFAR10 have them."""
SMALL = ("resnet18", "vgg11", "wrn28-2")
"""One of each family, the fastest."""


def built(name: str, seed: int = 1, inputs: tuple[int, ...] = (3, 32, 32), **options: Any) -> nn.Module:
    """The model for ten classes, as the problem builds it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = plugins.resolve("model", name)(inputs=inputs, outputs=10, **options)
    return model


def pictures(m: int, *shape: int) -> torch.Tensor:
    """`[m, …]` standard normal numbers, the same ones for ever."""
    return torch.randn(m, *(shape or (3, 32, 32)), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_the_published_number_of_parameters(name: str, count: int) -> None:
    """As published; and no buffer, which no client could share."""
    with torch.device("meta"):
        model = built(name)
    assert sum(p.numel() for p in model.parameters()) == count
    assert not list(model.buffers())


@pytest.mark.parametrize("name", SMALL)
def test_a_norm_has_its_own_parameters(name: str) -> None:
    """GroupNorm and frozen BatchNorm have BatchNorm's; averaged statistics are two more coordinates a channel."""
    channels = sum(m.num_features for m in built(name).modules() if isinstance(m, nn.BatchNorm2d))
    for options, more in (({"norm": "group"}, 0), ({"bn": "frozen"}, 0), ({"bn": "average"}, 2 * channels)):
        model = built(name, **options)
        assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name] + more
        assert any(isinstance(m, nn.GroupNorm) for m in model.modules()) is ("norm" in options)


@pytest.mark.parametrize(
    ("depth", "k", "millions"),
    [
        *((40, 1, 0.6), (40, 2, 2.2), (40, 4, 8.9), (40, 8, 35.7), (28, 10, 36.5), (28, 12, 52.5)),
        *((22, 8, 17.2), (22, 10, 26.8), (16, 8, 11.0), (16, 10, 17.1)),
    ],
)
def test_wide_resnets_have_the_paper_s_sizes(depth: int, k: int, millions: float) -> None:
    """Table 4 of Zagoruyko and Komodakis, in millions, from the builder of all of ours."""
    with torch.device("meta"):
        model = of_size(depth, k)(inputs=(3, 32, 32), outputs=10)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28)], ids=["32x32", "28x28"])
@pytest.mark.parametrize("name", SMALL)
def test_pictures_become_scores(name: str, shape: tuple[int, ...]) -> None:
    """One row of scores a picture, in training with a batch of one too."""
    model = built(name, inputs=shape)
    assert model.train()(pictures(1, *shape)).shape == (1, 10)
    with torch.no_grad():
        assert model.eval()(pictures(3, *shape)).shape == (3, 10)


def test_vgg_s_convolutions_are_torchvision_s() -> None:
    """Shapes and order of all weights before the head are those of torchvision's vgg16_bn."""
    from torchvision.models import vgg16_bn

    with torch.device("meta"):
        theirs = [p.shape for p in vgg16_bn().features.parameters()]
        ours = [p.shape for p in built("vgg16").parameters()]
    assert ours[:-2] == theirs


def test_small_pictures_stay_large() -> None:
    """The first block sees 32x32 pixels and the last 4x4, where torchvision's own stem would leave 8x8 and 1x1."""
    model, seen = built("resnet18"), {}
    for name in ("layer1", "layer4"):
        block = model.get_submodule(name)
        block.register_forward_hook(lambda _m, _x, out, name=name: seen.update({name: tuple(out.shape[-2:])}))
    with torch.no_grad():
        assert model(pictures(2)).shape == (2, 10)
    assert seen == {"layer1": (32, 32), "layer4": (4, 4)}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("options", "alone"), [({}, False), ({"norm": "group"}, True), ({"bn": "frozen"}, True)])
def test_what_a_sample_depends_on(name: str, options: dict[str, str], alone: bool) -> None:
    """The outputs of a sample are its own, but with the statistics of the batch, which evaluation uses too."""
    model, x = built(name, **options).eval(), pictures(4)
    with torch.no_grad():
        all_four, two = model(x)[:2], model(x[:2])
    assert (float((all_four - two).abs().max() / all_four.abs().max()) < 1e-3) is alone


@pytest.mark.parametrize("name", SMALL)
def test_the_start_is_a_function_of_the_seed(name: str) -> None:
    """Equal seeds, equal parameters, other seeds, others: the first convolution's too."""
    one, two, other = (list(built(name, seed).parameters()) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    first = max(range(3), key=lambda k: one[k].dim())
    assert not torch.equal(one[first], other[first])


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("shape", [(3072,), (32, 32)])
def test_it_needs_pictures(name: str, shape: tuple[int, ...]) -> None:
    """A flat sample is refused in words."""
    with pytest.raises(PlugInError, match=f'the model "{name}" needs pictures'):
        plugins.resolve("model", name)(inputs=shape, outputs=10)


def test_a_vgg_needs_room_for_five_poolings() -> None:
    """16x16 pixels would leave the last convolutions a single one."""
    with pytest.raises(PlugInError, match=r'the model "vgg11" needs pictures .* of at least 17x17, not 3x16x16'):
        plugins.resolve("model", "vgg11")(inputs=(3, 16, 16), outputs=10)
