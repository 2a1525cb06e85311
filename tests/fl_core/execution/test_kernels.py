"""Kernels on stacks: whichever is chosen has the bits of one call a client."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from fl_core.execution.kernels import DW, Linear, each_client, linear_plan, same_bits, step_down


@settings(max_examples=60, deadline=None)
@given(
    clients=st.integers(1, 20),
    b=st.integers(1, 33),
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 12),
    bias=st.booleans(),
    shared=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 1000),
)
def test_linear(
    clients: int, b: int, inputs: int, outputs: int, bias: bool, shared: bool, dtype: torch.dtype, seed: int
) -> None:
    """Forward and all three gradients, shared weights or not, are those of torch's layer alone."""
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(clients, b, inputs, dtype=dtype, generator=source)
    d = outputs * inputs + (outputs if bias else 0)
    flat = torch.randn(1 if shared else clients, d, dtype=dtype, generator=source).expand(clients, d)
    w = flat[:, : outputs * inputs].view(clients, outputs, inputs).detach().requires_grad_()
    c = flat[:, outputs * inputs :].detach().requires_grad_() if bias else None
    g = torch.randn(clients, b, outputs, dtype=dtype, generator=source)
    x.requires_grad_()
    leaves = [t for t in (x, w, c) if t is not None]
    plan = linear_plan(x, w, c, True)
    if plan is None:  # nothing but torch's own layer rounds alike: it is called for each client then
        return
    y = Linear.apply(x, w, c, plan)
    grads = torch.autograd.grad(y, leaves, g)
    for row in range(clients):
        alone = [t[row].detach().clone().requires_grad_() for t in leaves]
        expected = functional.linear(*alone)
        assert same_bits(y[row].detach(), expected.detach())
        for ours, theirs in zip(grads, torch.autograd.grad(expected, alone, g[row]), strict=True):
            assert same_bits(ours[row], theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("n", [*range(1, 34), 47, 120, 784])
def test_a_step_of_columns_is_one_of_whole_vectors(n: int, dtype: torch.dtype) -> None:
    """From one point or from many, in place or not, columns of any number: the bits of a vector added in one piece."""
    source = torch.Generator().manual_seed(n)
    wide, g = torch.randn(50, n + 5, dtype=dtype, generator=source), torch.randn(50, n, dtype=dtype, generator=source)
    for x in (wide[:, 3 : 3 + n], wide[:1, 3 : 3 + n].expand(50, n)):
        expected = torch.stack([row.clone().add_(step, alpha=-0.3) for row, step in zip(x, g, strict=True)])
        into = torch.zeros(50, n + 9, dtype=dtype)
        step_down(x, g, 0.3, into[:, 2 : 2 + n])
        assert same_bits(into[:, 2 : 2 + n], expected)
        assert not into[:, :2].any()
        assert not into[:, 2 + n :].any()
    x = wide[:, 3 : 3 + n]
    expected = torch.stack([row.clone().add_(step, alpha=-0.3) for row, step in zip(x, g, strict=True)])
    step_down(x, g, 0.3, x)
    assert same_bits(x, expected)


def test_a_shared_weight_is_one_large_product_where_that_rounds_alike() -> None:
    """At the first local step of 16 samples a client the forward is one product for all."""
    x = torch.randn(50, 16, 64)
    w = torch.randn(10, 64).expand(50, 10, 64)
    plan = linear_plan(x, w, None, False)
    assert plan is not None
    assert plan[0] in ("together", "batched")


@pytest.mark.parametrize("name", DW)
@pytest.mark.parametrize("apart", [0, 3])
def test_a_gradient_is_written_where_it_is_wanted(name: str, apart: int) -> None:
    """Every kernel fills the rows it is given, wide apart or not, and nothing between them."""
    g = torch.randn(9, 4, 6, dtype=torch.float64).transpose(1, 2)
    x = torch.randn(9, 6, 30, dtype=torch.float64, requires_grad=True)
    wide = torch.full((9, 120 + apart), 7.0, dtype=torch.float64)
    out = wide[:, :120].view(9, 4, 30)
    with torch.no_grad():
        assert DW[name](g, x, out) is out
    torch.testing.assert_close(out, g.transpose(1, 2) @ x)
    assert (wide[:, 120:] == 7).all()


def test_numpy_multiplies_nothing_that_its_library_would_share_between_threads() -> None:
    """A slot uses one core: products of many numbers are torch's, whose threads are set."""
    g, x = torch.randn(2, 64, 64), torch.randn(2, 64, 65)
    assert DW["numpy"](g, x, torch.empty(2, 64, 65)) is None
    assert DW["numpy"](g, x[..., :64], torch.empty(2, 64, 64)) is not None


def test_same_bits_sees_the_sign_of_zero() -> None:
    """Equal numbers whose bytes differ would travel as different bytes."""
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert same_bits(torch.tensor([float("nan")]), torch.tensor([float("nan")]))
    assert not same_bits(torch.tensor([0.0]), torch.tensor([0.0], dtype=torch.float64))


def test_each_client_stacks_what_it_can() -> None:
    """Tensors and tuples of tensors have a stacked form; a number has none."""
    stack = torch.arange(6.0).view(3, 2)
    assert torch.equal(each_client(lambda row: row.sum(), [stack], 3), stack.sum(1))
    largest = each_client(lambda row: tuple(row.max(0)), [stack], 3)
    assert torch.equal(largest[0], stack.max(1).values)
    with pytest.raises(TypeError, match="a float has no form"):
        each_client(lambda row: 1.0, [stack], 3)
