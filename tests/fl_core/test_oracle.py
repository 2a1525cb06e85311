"""The oracle against plain autograd, and the state it must not carry from client to client."""

from __future__ import annotations

import math
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fl_core.errors import PlugInError
from fl_core.losses import loss
from fl_core.oracle import Oracle, flatten
from fl_core.regularizers import L2, Nonconvex, NoRegularizer

M, D_IN = 11, 3


def model() -> nn.Sequential:
    """Three inputs, five hidden units, two outputs: 32 parameters."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(D_IN, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def batch() -> tuple[Tensor, Tensor]:
    """Eleven samples with two labels."""
    source = torch.Generator().manual_seed(1)
    inputs = torch.randn(M, D_IN, dtype=torch.float64, generator=source)
    return inputs, torch.randint(2, (M,), generator=source)


def point(d: int, seed: int = 2) -> Tensor:
    """Some x `[d]`."""
    return torch.randn(d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def objective(x: Tensor, inputs: Tensor, targets: Tensor, regularizer: Any) -> Tensor:
    """The same f_i, written out by hand with nothing of ours in it."""
    w1, b1, w2, b2 = x[:15].view(5, 3), x[15:20], x[20:30].view(2, 5), x[30:]
    z = torch.tanh(inputs @ w1.T + b1) @ w2.T + b2
    value = -(z[torch.arange(M), targets] - z.logsumexp(1)).mean()
    if isinstance(regularizer, L2):
        return value + 0.5 * regularizer.alpha * (x**2).sum()
    if isinstance(regularizer, Nonconvex):
        return value + regularizer.alpha * (x**2 / (1 + x**2)).sum()
    return value


@pytest.mark.parametrize("regularizer", [None, NoRegularizer(), L2(0.3), Nonconvex(0.7)])
def test_gradient_and_value_against_autograd(regularizer: Any) -> None:
    """∇f_i and f_i at x agree with autograd through a formula of their own, regulariser included, to 1e-13."""
    oracle = Oracle(model(), loss("cross_entropy"), regularizer, torch.float64)
    inputs, targets = batch()
    x = point(oracle.d).requires_grad_(True)
    value = objective(x, inputs, targets, regularizer)
    (expected,) = torch.autograd.grad(value, [x])
    g, found = oracle.gradient(x.detach(), inputs, targets)
    assert torch.allclose(g, expected, rtol=0, atol=1e-13)
    assert math.isclose(float(found), value.item(), abs_tol=1e-13)
    assert math.isclose(float(oracle.value(x.detach(), inputs, targets)), value.item(), abs_tol=1e-13)


@pytest.mark.parametrize("regularizer", [L2(0.3), Nonconvex(0.7)])
def test_the_gradient_is_the_derivative_of_the_value(regularizer: Any) -> None:
    """Central differences of the oracle's own value give its own gradient."""
    oracle = Oracle(model(), loss("cross_entropy"), regularizer, torch.float64)
    inputs, targets = batch()
    x, h = point(oracle.d), 1e-6
    slopes = [
        float(oracle.value(x + h * e, inputs, targets) - oracle.value(x - h * e, inputs, targets)) / (2 * h)
        for e in torch.eye(oracle.d, dtype=torch.float64)
    ]
    g, _ = oracle.gradient(x, inputs, targets)
    assert torch.allclose(g, torch.tensor(slopes, dtype=torch.float64), rtol=0, atol=1e-8)


def test_evaluation_leaves_the_regulariser_out() -> None:
    """evaluated_gradient is of the batch's loss alone: the full objective adds R once, not once a client."""
    oracle = Oracle(model(), loss("cross_entropy"), L2(0.3), torch.float64)
    inputs, targets = batch()
    x = point(oracle.d)
    g, value = oracle.gradient(x, inputs, targets)
    g0, value0 = oracle.evaluated_gradient(x, inputs, targets)
    assert torch.allclose(g, g0 + 0.3 * x, rtol=0, atol=1e-14)
    assert math.isclose(float(value), float(value0 + 0.15 * x.square().sum()), abs_tol=1e-13)


def test_the_gradient_is_fresh_memory() -> None:
    """Asking again does not change what was given before, even for a model with a single parameter."""
    oracle = Oracle(nn.Linear(D_IN, 1, bias=False).double(), loss("mse"), None, torch.float64)
    inputs, _ = batch()
    x, targets = point(3), torch.zeros(M, dtype=torch.float64)
    first, _ = oracle.gradient(x, inputs, targets)
    kept = first.clone()
    second, _ = oracle.gradient(2 * x, inputs, targets)
    assert torch.equal(first, kept)
    assert first.data_ptr() != second.data_ptr()
    oracle.flat.zero_()
    assert torch.equal(second, 2 * first), "the gradient of |Ax|² is linear in x"


def test_x_is_not_changed() -> None:
    """The oracle copies x; the caller's tensor stays."""
    oracle = Oracle(model(), loss("cross_entropy"), L2(0.1), torch.float64)
    x = point(oracle.d)
    kept = x.clone()
    oracle.gradient(x, *batch())
    assert torch.equal(x, kept)


class Odd(nn.Module):
    """A used parameter between two that the loss does not reach, and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.ones(4))
        self.used = nn.Parameter(torch.ones(D_IN))
        self.frozen = nn.Parameter(torch.full((2,), 9.0), requires_grad=False)
        self.also_unused = nn.Parameter(torch.ones(2, 2))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.used + self.frozen.sum()


def test_parameters_the_loss_does_not_reach() -> None:
    """An unused parameter has a zero gradient in its place; a frozen one is no part of x."""
    oracle = Oracle(Odd(), loss("mse"), None, torch.float64)
    inputs, _ = batch()
    targets = torch.zeros(M, dtype=torch.float64)
    assert oracle.d == 4 + D_IN + 4
    x = point(oracle.d)
    g, _ = oracle.gradient(x, inputs, targets)
    expected = 2 / M * inputs.T @ (inputs @ x[4:7] + 18.0)
    assert torch.equal(g[:4], torch.zeros(4, dtype=torch.float64))
    assert torch.equal(g[7:], torch.zeros(4, dtype=torch.float64))
    assert torch.allclose(g[4:7], expected, rtol=0, atol=1e-12)
    assert torch.equal(oracle.model.frozen, torch.full((2,), 9.0, dtype=torch.float64))  # type: ignore[arg-type]


def test_tied_parameters_count_once() -> None:
    """A parameter used in two places is one part of x, and its gradient is the sum."""
    tied = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    tied[1].weight = tied[0].weight
    oracle = Oracle(tied, lambda z, b: z.sum(), None, torch.float64)
    assert oracle.d == 4
    a = torch.eye(2, dtype=torch.float64)
    g, value = oracle.gradient(torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64), a, a)
    w = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    expected = (a @ w.T @ w.T).sum()
    assert value == expected
    assert torch.equal(g, torch.autograd.grad(expected, [w])[0].reshape(-1))


def norm_model() -> nn.Sequential:
    """A model that behaves otherwise in training: batch statistics, dropout."""
    return nn.Sequential(nn.Linear(D_IN, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def test_buffers_are_put_back() -> None:
    """BatchNorm's running statistics are those of the start again: no client sees what another has left."""
    oracle = Oracle(norm_model(), loss("cross_entropy"), None, torch.float64)
    start = [buffer.clone() for buffer in oracle.model.buffers()]
    oracle.gradient(point(oracle.d), *batch())
    changed = [not torch.equal(a, b) for a, b in zip(start, oracle.model.buffers(), strict=True)]
    assert all(changed), "a gradient in training mode updates them"
    oracle.reset_buffers()
    assert all(torch.equal(a, b) for a, b in zip(start, oracle.model.buffers(), strict=True))


def test_training_and_evaluation_modes() -> None:
    """gradient and value train (dropout, batch statistics); outputs and evaluated_gradient evaluate."""
    oracle = Oracle(norm_model(), loss("cross_entropy"), None, torch.float64)
    x, (inputs, targets) = point(oracle.d), batch()
    modes = []
    oracle.model.register_forward_hook(lambda module, *_: modes.append(module.training))
    oracle.gradient(x, inputs, targets)
    outputs = oracle.outputs(x, inputs)
    assert torch.equal(outputs, oracle.outputs(x, inputs)), "dropout must be off"
    assert not outputs.requires_grad
    _, value = oracle.evaluated_gradient(x, inputs, targets)
    assert value == loss("cross_entropy")(outputs, targets)
    oracle.value(x, inputs, targets)
    assert modes == [True, False, False, False, True]


def test_a_gradient_where_autograd_is_off() -> None:
    """A user's method may run under no_grad; the oracle's gradient does not depend on it."""
    oracle = Oracle(model(), loss("cross_entropy"), None, torch.float64)
    x = point(oracle.d)
    expected, _ = oracle.gradient(x, *batch())
    with torch.no_grad():
        found, _ = oracle.gradient(x, *batch())
    assert torch.equal(found, expected)
    assert not found.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_types(dtype: torch.dtype) -> None:
    """Parameters, gradients and values are of the asked type; the gradient is near the float64 one."""
    oracle, exact = (Oracle(model(), loss("cross_entropy"), L2(0.1), kind) for kind in (dtype, torch.float64))
    inputs, targets = batch()
    x = point(oracle.d)
    g, value = oracle.gradient(x.to(dtype), inputs.to(dtype), targets)
    assert oracle.dtype == g.dtype == value.dtype == dtype
    expected, _ = exact.gradient(x, inputs, targets)
    assert float((g.double() - expected).norm() / expected.norm()) < 8 * torch.finfo(dtype).eps


def test_replicas_start_where_the_model_does() -> None:
    """`flat` holds the model's own parameters, in their order, and they are views of it."""
    net = model()
    expected = torch.cat([p.detach().reshape(-1) for p in net.parameters()])
    oracle = Oracle(net, loss("cross_entropy"), None, torch.float64)
    assert torch.equal(oracle.flat, expected)
    oracle.flat.fill_(0.25)
    assert all(bool((p == 0.25).all()) for p in oracle.parameters)


def test_flatten() -> None:
    """All elements in order, in memory of its own; nothing at all is an empty vector."""
    a = torch.arange(6.0).reshape(2, 3)
    flat = flatten([a.T], torch.float32, "cpu")
    assert flat.tolist() == [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
    alone = flatten([a], torch.float32, "cpu")
    alone.zero_()
    assert a[1, 2] == 5.0
    assert flatten([], torch.float16, "cpu").shape == (0,)


class Unreached(nn.Module):
    """A parameter that no output depends on, between two that matter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.spare, self.last = nn.Linear(D_IN, 7), nn.Linear(3, 5), nn.Linear(7, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        """Scores `[m, 2]`."""
        scores: Tensor = self.last(self.first(inputs).tanh())
        return scores


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_descending_is_the_gradient_and_an_addition(dtype: torch.dtype) -> None:
    """x after `descend` has the very bits of x - lr g, at whatever offset a parameter lies; so has g."""
    inputs, targets = batch()
    oracle = Oracle(Unreached(), loss("cross_entropy"), None, dtype)
    x = point(oracle.d).to(dtype)
    assert not oracle.can_descend(x)  # before the first gradient it does not know the model
    for _ in range(3):
        g, value = oracle.gradient(x, inputs.to(dtype), targets)
        expected = x.add(g, alpha=-0.3)
        assert oracle.can_descend(x)
        pieces, found = oracle.descend(x, inputs.to(dtype), targets, 0.3)
        assert torch.equal(x, expected)
        assert torch.equal(found, value)
        assert torch.equal(torch.cat([piece.reshape(-1) for piece in pieces]), g)


def test_where_it_has_descended_another_point_is_not_touched() -> None:
    """After a step in x's own memory, asking at y leaves x alone; the answers are those of a fresh oracle."""
    inputs, targets = batch()
    oracle, fresh = (Oracle(model(), loss("cross_entropy"), None, torch.float64) for _ in range(2))
    x, y = point(oracle.d), point(oracle.d, 5)
    oracle.gradient(x, inputs, targets)
    oracle.descend(x, inputs, targets, 0.1)
    kept = x.clone()
    assert torch.equal(oracle.gradient(y, inputs, targets)[0], fresh.gradient(y, inputs, targets)[0])
    assert torch.equal(x, kept)
    assert torch.equal(oracle.outputs(x, inputs), fresh.outputs(x, inputs))


class Clamped(nn.Linear):
    """Writes into its own weights, from its n-th call on."""

    def __init__(self, after: int) -> None:
        super().__init__(D_IN, 2)
        self.calls, self.after = 0, after

    def forward(self, inputs: Tensor) -> Tensor:
        """Scores `[m, 2]`."""
        self.calls += 1
        if self.calls > self.after:
            with torch.no_grad():
                self.weight.clamp_(-0.1, 0.1)
        return super().forward(inputs)


def test_a_model_that_writes_into_its_parameters_does_not_descend() -> None:
    """Its x would change under the client's hands: from the first call on it works on a copy, later it is an error."""
    inputs, targets = batch()
    oracle = Oracle(Clamped(0), loss("cross_entropy"), None, torch.float64)
    x = point(oracle.d)
    oracle.gradient(x, inputs, targets)
    assert not oracle.can_descend(x)
    assert torch.equal(x, point(oracle.d))
    late = Oracle(Clamped(1), loss("cross_entropy"), None, torch.float64)
    late.gradient(x, inputs, targets)
    with pytest.raises(PlugInError, match="changed its own parameters"):
        late.descend(x, inputs, targets, 0.1)


def test_a_regularizer_is_not_passed_over() -> None:
    """`descend` knows nothing of R, so it is not offered where there is one."""
    oracle = Oracle(model(), loss("cross_entropy"), L2(0.3), torch.float64)
    oracle.gradient(point(oracle.d), *batch())
    assert not oracle.can_descend(point(oracle.d))


class WithCache(nn.Linear):
    """Keeps a buffer that is not there at first."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Scores `[m, 2]`, which depend on the client before."""
        if not hasattr(self, "cache"):
            self.register_buffer("cache", inputs.mean())
        return super().forward(inputs) + self.cache


def test_a_buffer_that_appears_later_is_refused() -> None:
    """A buffer without a start would carry one client's data to the next."""
    oracle = Oracle(WithCache(D_IN, 2), loss("cross_entropy"), None, torch.float64)
    oracle.reset_buffers()
    oracle.gradient(point(oracle.d), *batch())
    with pytest.raises(ValueError, match="zip"):
        oracle.reset_buffers()


def test_descending_needs_one_vector() -> None:
    """The oracle lets go of its own memory where the parameters are x itself, and has it back for a gradient."""
    oracle = Oracle(model(), loss("cross_entropy"), None, torch.float64)
    inputs, targets = batch()
    x = point(oracle.d)
    expected, _ = oracle.gradient(x, inputs, targets)
    own = weakref.ref(oracle.flat)
    moved = x.clone()
    pieces, _ = oracle.descend(moved, inputs, targets, 0.5)
    assert own() is None
    assert torch.equal(torch.cat([g.reshape(-1) for g in pieces]), expected)
    assert torch.equal(moved, x - 0.5 * expected)
    found, _ = oracle.gradient(x, inputs, targets)
    assert torch.equal(found, expected)
    kept = oracle.flat
    oracle.descend(moved, inputs, targets, 0.5)
    assert oracle.flat is kept


def test_autocast_is_for_training_only() -> None:
    """Forward and backward of training are bfloat16's, near the exact ones; loss, gradient, evaluation are float32."""
    kinds = (None, torch.bfloat16)
    exact, fast = (Oracle(model(), loss("cross_entropy"), None, torch.float32, "cpu", kind) for kind in kinds)
    inputs, targets = batch()
    x, inputs = point(exact.d).float(), inputs.float()
    (g, value), (expected, near) = fast.gradient(x, inputs, targets), exact.gradient(x, inputs, targets)
    assert g.dtype == value.dtype == torch.float32
    assert 0 < float((g - expected).norm() / expected.norm()) < 0.05
    assert torch.equal(fast.value(x, inputs, targets), value)
    assert abs(float(value - near)) < 0.02
    assert torch.equal(fast.outputs(x, inputs), exact.outputs(x, inputs))
    assert torch.equal(fast.evaluated_gradient(x, inputs, targets)[0], exact.evaluated_gradient(x, inputs, targets)[0])
    moved = x.clone()
    fast.descend(moved, inputs, targets, 0.5)
    assert torch.equal(moved, x - 0.5 * g)
