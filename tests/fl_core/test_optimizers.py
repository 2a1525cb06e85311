"""torch's optimizers on one flat vector: their very bits, their checkpoints, their schedules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import lr_scheduler

from fl_core.experiment.optimizers import optimizer_class, optimizer_names
from fl_core.optimizers import FlatOptimizer, Schedule

D = 37
OPTIONS: dict[str, dict[str, Any]] = {
    "adam": {"lr": 0.01, "betas": (0.8, 0.99), "amsgrad": True},
    "sgd": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "rmsprop": {"lr": 0.01, "momentum": 0.5, "centered": True},
}


def gradients(steps: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """`[steps, d]`."""
    source = torch.Generator().manual_seed(5)
    return torch.randn(steps, D, generator=source, dtype=torch.float64).to(dtype)


def start(dtype: torch.dtype = torch.float32) -> Tensor:
    """x0 `[d]`."""
    return torch.linspace(-1, 1, D, dtype=torch.float64).to(dtype)


def by_torch(name: str, options: dict[str, Any], x: Tensor, gs: Tensor) -> Tensor:
    """The points after every step, `[steps, d]`, by torch alone."""
    leaf = torch.nn.Parameter(x.clone())
    optimizer = optimizer_class(name)([leaf], **options)
    found = []
    for g in gs:
        leaf.grad = g.clone()
        optimizer.step()
        found.append(leaf.detach().clone())
    return torch.stack(found)


def by_ours(optimizer: FlatOptimizer, x: Tensor, gs: Tensor) -> Tensor:
    """The same by FlatOptimizer."""
    found = []
    for g in gs:
        x = optimizer.step(x, g)
        found.append(x.clone())
    return torch.stack(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_plain_sgd_is_torch_s_bit_for_bit(dtype: torch.dtype) -> None:
    """The one in-place axpy gives the bits of torch.optim.SGD, in every type, and makes no optimizer of torch's."""
    optimizer = FlatOptimizer("SGD", {"lr": 0.3, "momentum": 0.0})
    gs = gradients(5, dtype)
    assert torch.equal(
        by_ours(optimizer, optimizer.start(start(dtype)), gs), by_torch("sgd", {"lr": 0.3}, start(dtype), gs)
    )
    assert optimizer.torch_optimizer is None
    assert optimizer.state() == {}


@pytest.mark.parametrize("name", [name for name in optimizer_names() if name != "yogi"])
def test_every_optimizer_is_torch_s_bit_for_bit(name: str) -> None:
    """On one flat tensor each gives the points torch gives."""
    options = OPTIONS.get(name, {"lr": 0.01})
    optimizer = FlatOptimizer(name, options)
    gs = gradients(6)
    assert torch.equal(by_ours(optimizer, optimizer.start(start()), gs), by_torch(name, options, start(), gs))


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_the_vector_is_the_optimizer_s_own(name: str) -> None:
    """Neither x0 nor the gradient is written to; steps move one vector that the optimizer owns."""
    optimizer = FlatOptimizer(name, OPTIONS[name])
    x0, g = start(), gradients(1)[0]
    x = optimizer.start(x0)
    assert optimizer.step(x, g) is x
    assert torch.equal(x0, start())
    assert torch.equal(g, gradients(1)[0])
    assert x.grad is None


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_a_step_from_elsewhere(name: str) -> None:
    """A method may give a point of its own: the step starts there, with the momenta as they are."""
    optimizer, other = FlatOptimizer(name, OPTIONS[name]), FlatOptimizer(name, OPTIONS[name])
    gs = gradients(2)
    moved = by_ours(optimizer, optimizer.start(start()), gs[:1])[0]
    away = moved + 1
    kept = away.clone()
    found = optimizer.step(away, gs[1]).clone()
    assert torch.equal(away, kept)
    x = other.step(other.start(start()), gs[0])
    x.copy_(kept)
    assert torch.equal(found, other.step(x, gs[1]))


def test_a_step_without_a_start() -> None:
    """The first step starts at the point it is given."""
    assert torch.equal(FlatOptimizer("sgd", {"lr": 1.0}).step(start(), gradients(1)[0]), start() - gradients(1)[0])


@pytest.mark.parametrize("name", [name for name in optimizer_names() if name != "yogi"])
def test_a_restored_optimizer_goes_on_exactly(name: str) -> None:
    """Stopped after three steps and restored from state(), it gives the bits of one that never stopped."""
    options, gs = OPTIONS.get(name, {"lr": 0.01}), gradients(7)
    whole = by_torch(name, options, start(), gs)
    first = FlatOptimizer(name, options)
    x = by_ours(first, first.start(start()), gs[:3])[-1]
    kept = {key: value.clone() for key, value in first.state().items()}
    again = FlatOptimizer(name, options)
    again.restore(x.clone(), kept)
    assert torch.equal(by_ours(again, x.clone(), gs[3:]), whole[3:])


def test_a_restored_state_is_a_copy() -> None:
    """Going on does not write into the checkpoint it came from."""
    first = FlatOptimizer("adam", OPTIONS["adam"])
    by_ours(first, first.start(start()), gradients(2))
    kept = {key: value.clone() for key, value in first.state().items()}
    same = {key: value.clone() for key, value in kept.items()}
    again = FlatOptimizer("adam", OPTIONS["adam"])
    again.restore(start(), kept)
    by_ours(again, start(), gradients(2))
    assert {"exp_avg", "exp_avg_sq", "step"} <= kept.keys()
    assert all(torch.equal(kept[key], same[key]) for key in kept)


@pytest.mark.parametrize("options", [{"lr": 0.1}, {"lr": 0.1, "momentum": 0.9}])
def test_the_step_size_changes_when_told(options: dict[str, float]) -> None:
    """set_lr holds from the next step on, also for an optimizer that is restored later."""
    optimizer = FlatOptimizer("sgd", options)
    g = gradients(1)[0]
    x = optimizer.start(start())
    optimizer.set_lr(0.5)
    assert optimizer.lr == 0.5
    assert torch.equal(optimizer.step(x, g), start().add(g, alpha=-0.5))
    again = FlatOptimizer("sgd", options)
    again.set_lr(0.5)
    assert torch.equal(again.step(again.start(start()), g), start().add(g, alpha=-0.5))


ROUNDS = 12
SCHEDULES: dict[str, tuple[dict[str, Any], Any]] = {
    "step": ({"step_size": 3, "gamma": 0.5}, lambda o: lr_scheduler.StepLR(o, step_size=3, gamma=0.5)),
    "exponential": ({"gamma": 0.9}, lambda o: lr_scheduler.ExponentialLR(o, gamma=0.9)),
    "cosine": ({"eta_min": 0.01}, lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=ROUNDS, eta_min=0.01)),
    "linear": (
        {"end_factor": 0.1},
        lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.1, total_iters=ROUNDS),
    ),
    "constant": ({}, lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
}


def torch_s_rates(make: Any, lr: float) -> list[float]:
    """The step size of every round, by torch's scheduler, stepped once after each round."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=lr)
    scheduler = make(optimizer)
    rates = []
    for _ in range(ROUNDS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_torch_s(name: str) -> None:
    """The step size of rounds 1, 2, … is exactly that of torch's scheduler; round 1 has the given one."""
    options, make = SCHEDULES[name]
    schedule = Schedule(name, options, 0.7, ROUNDS)
    found = [schedule.lr(t) for t in range(1, ROUNDS + 1)]
    assert found == torch_s_rates(make, 0.7)
    assert found[0] == 0.7
    assert name == "constant" or found[-1] < 0.7


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_can_be_asked_in_any_order(name: str) -> None:
    """A round that is begun again, or a run that goes on at round 9, gets the same step size."""
    options, _ = SCHEDULES[name]
    schedule = Schedule(name, options, 0.7, ROUNDS)
    in_order = [schedule.lr(t) for t in range(1, ROUNDS + 1)]
    resumed = Schedule(name, options, 0.7, ROUNDS)
    assert [resumed.lr(9), resumed.lr(9), resumed.lr(2), resumed.lr(12)] == [
        in_order[8], in_order[8], in_order[1], in_order[11],
    ]  # fmt: skip


def test_a_point_handed_over_is_not_written_to() -> None:
    """Plain SGD gives its vector away, others a copy: the next step leaves it as it is."""
    for name, options in (("sgd", {"lr": 0.5}), ("sgd", {"lr": 0.5, "momentum": 0.9}), ("adam", {"lr": 0.5})):
        optimizer = FlatOptimizer(name, options)
        optimizer.restore(torch.zeros(3), {})
        first = optimizer.handed_over(optimizer.step(torch.zeros(3), torch.ones(3)))
        kept = first.clone()
        second = optimizer.step(first, torch.ones(3))
        assert torch.equal(first, kept)
        assert not torch.equal(second, kept)
