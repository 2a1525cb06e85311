"""Max pooling by the faster kernel: the numbers and gradients of torch's layer, whatever it is given."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from fl_core.execution import cohort, pooling
from fl_core.execution.audit import difference_of
from fl_core.execution.cohort import CohortRunner, CohortWork
from fl_core.execution.fused_level import Level
from fl_core.execution.pooling import hasten_pooling
from fl_core.session import open_session
from tests.conftest import small_experiment

GEOMETRIES: list[dict[str, Any]] = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": (3, 2), "stride": (1, 3)},
    {"kernel_size": 2, "dilation": 2},
    {"kernel_size": 3, "stride": 2, "ceil_mode": True},
]


def drawn(*shape: int, dtype: torch.dtype = torch.float32, of: int | None = None) -> Tensor:
    """Random numbers; of only so many different ones, so that the largest is often there more than once."""
    source = torch.Generator().manual_seed(1)
    if of is not None:
        return torch.randint(of, shape, generator=source).to(dtype) - of // 2
    return torch.randn(shape, generator=source, dtype=dtype)


def both(layer: nn.Module, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """(What comes out, the gradient by x) with torch's layer and with the hastened one."""
    hastened = copy.deepcopy(layer)
    hasten_pooling(hastened)
    found = []
    for each in (layer, hastened):
        leaf = x.clone().requires_grad_()
        y = each(leaf)
        y.backward(drawn(*y.shape, dtype=y.dtype))
        assert leaf.grad is not None
        found.append((y.detach(), leaf.grad))
    return found


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("of", [None, 3])
def test_the_numbers_and_gradients_of_torch(geometry: dict[str, Any], dtype: torch.dtype, of: int | None) -> None:
    """Also where several numbers are the largest: the gradient goes to the same one."""
    x = drawn(7, 9, 14, 15, dtype=dtype, of=of)
    (y, g), (y_fast, g_fast) = both(nn.MaxPool2d(**geometry), x)
    assert torch.equal(y, y_fast)
    assert torch.equal(g, g_fast)
    assert y_fast.is_contiguous()
    assert g_fast.is_contiguous()


def test_infinite_numbers_and_nan() -> None:
    """They come out, and are given their gradients, as with torch's layer."""
    x = drawn(4, 8, 16, 16)
    x[0] = -math.inf
    x[1, :, ::3] = math.inf
    x[2, 0, 0, 0] = x[2, 1, 5, 4] = math.nan
    (y, g), (y_fast, g_fast) = both(nn.MaxPool2d(2), x)
    assert torch.equal(y.nan_to_num(nan=7), y_fast.nan_to_num(nan=7))
    assert torch.equal(g, g_fast)
    assert y.isnan().sum() == 2


@pytest.mark.parametrize("bytes_each", [1 << 10, 1 << 13, 1 << 30])
def test_many_samples_are_taken_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch, bytes_each: int) -> None:
    """However they are cut."""
    monkeypatch.setattr(pooling, "_CACHED_BYTES", bytes_each)
    (y, g), (y_fast, g_fast) = both(nn.MaxPool2d(2), drawn(11, 3, 16, 16))
    assert torch.equal(y, y_fast)
    assert torch.equal(g, g_fast)


class Kernels:
    """Counts how often the faster kernel runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        apply = pooling._Pooling.apply

        def counting(*arguments: Any) -> Any:
            self.calls += 1
            return apply(*arguments)

        monkeypatch.setattr(pooling._Pooling, "apply", counting)


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.MaxPool2d(2), drawn(2, 3, 4, 4)),
        (nn.MaxPool2d(2), drawn(8, 32, 32)),
        (nn.MaxPool2d(2), drawn(4, 8, 16, 16).to(torch.bfloat16)),
        (nn.MaxPool2d(2), drawn(4, 8, 16, 16).contiguous(memory_format=torch.channels_last)),
        (nn.MaxPool1d(2), drawn(8, 32, 32)),
    ],
    ids=["few numbers", "one sample", "half precision", "channels last", "another layer"],
)
def test_everything_else_is_torch_s_own(monkeypatch: pytest.MonkeyPatch, layer: nn.Module, x: Tensor) -> None:
    """Where it would be no faster, or is not known to be the same."""
    kernels = Kernels(monkeypatch)
    (y, g), (y_fast, g_fast) = both(layer, x)
    assert torch.equal(y, y_fast)
    assert torch.equal(g, g_fast)
    assert y.stride() == y_fast.stride()
    assert kernels.calls == 0


def test_places_are_returned_where_she_asks_for_them() -> None:
    """`return_indices` is torch's."""
    layer = nn.MaxPool2d(2, return_indices=True)
    x = drawn(4, 8, 16, 16)
    expected = layer(x)
    hasten_pooling(layer)
    assert all(torch.equal(a, b) for a, b in zip(expected, layer(x), strict=True))


def test_a_layer_of_her_own_is_left_alone() -> None:
    """A subclass, or a layer whose forward she has replaced, does what she wrote."""

    class Hers(nn.MaxPool2d):
        """Hers."""

    replaced = nn.MaxPool2d(2)
    replaced.forward = lambda input: input  # type: ignore[method-assign]  # what a user may do
    model = nn.Sequential(Hers(2), replaced, nn.MaxPool2d(2))
    hasten_pooling(model)
    assert [type(layer) for layer in model] == [Hers, nn.MaxPool2d, pooling.MaxPool2d]


def test_a_gradient_of_a_gradient() -> None:
    """A loss that holds a gradient, as a penalty, can be differentiated."""
    found = []
    for layer in (nn.MaxPool2d(2), nn.MaxPool2d(2)):
        x = drawn(4, 8, 16, 16).requires_grad_()
        (g,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(g.square().sum(), x)[0])
        hasten_pooling(layer)
    assert torch.equal(*found)


def test_clients_that_are_one_tensor_use_torch_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a level of vmap there is no faster kernel, and no error either."""
    kernels = Kernels(monkeypatch)
    layer = nn.MaxPool2d(2)
    x = drawn(3, 4, 8, 16, 16)
    expected = torch.stack([layer(each) for each in x])
    hasten_pooling(layer)
    with Level(3) as level:
        found = level.stack(layer(level.of(x)))
    assert torch.equal(found, expected)
    assert kernels.calls == 0


# torch compiles its rules for derivatives forward with what it calls deprecated itself.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is")
def test_transforms_of_torch_use_torch_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Her own torch.func code, and derivatives forward, work as they did."""
    kernels = Kernels(monkeypatch)
    x, v = drawn(4, 8, 16, 16), drawn(4, 8, 16, 16).neg()
    found: list[list[Tensor]] = []
    for hasten in (False, True):
        layer = nn.MaxPool2d(2)
        if hasten:
            hasten_pooling(layer)
        with forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, v))).tangent
        found.append(
            [
                torch.func.grad(lambda x, layer=layer: layer(x).square().sum())(x),
                torch.func.vmap(lambda scale, layer=layer: layer(x) * scale)(drawn(3)),
                torch.func.jvp(layer, (x,), (v,))[1],
                tangent,
            ]
        )
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert kernels.calls == 0


def test_clients_run_with_the_faster_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two poolings of the CNN a step, and the bytes are those without it."""
    session = open_session(
        small_experiment(
            data={"name": "digits", "partition": {"name": "iid"}},
            model={"name": "cnn", "loss": "cross_entropy", "channels": [8, 8], "hidden": 16},
            local={"gradient": "full", "steps": 2},
        )
    )
    round = session.server().begin_round(1)
    work = CohortWork(1, 0, round.cohorts[0], {}, {})
    kernels = Kernels(monkeypatch)
    found = []
    for hasten in (hasten_pooling, lambda model: None):
        monkeypatch.setattr(cohort, "hasten_pooling", hasten)
        runner = CohortRunner(session.problem, session.algorithm, session.work, torch.device("cpu"))
        found.append(runner.run(round.broadcast, work))
    assert kernels.calls == 2 * 2 * len(work.clients)
    assert difference_of(*found) is None
