"""Operations on the stacks of G clients that give each client the very bits it gets when it is alone.

Where torch has a batched kernel it is used if it rounds alike, which depends on the shape, the type and the machine:
that is tried once a shape, on random numbers, against one call a client; otherwise it is one call a client. So what is
chosen here can never show in a result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Key = tuple[Any, ...]
Plan = tuple[str, ...]
_chosen: dict[Key, Any] = {}
_VALUES = 512
"""Numbers that must agree before two kernels are taken for equal: few of them may agree by chance."""
_TRIES = 5
_SMALL = 1 << 10
"""Multiplications of a product that may be added in order: torch does so below 400."""
_ONE_THREAD = 1 << 18
"""Multiplications of a product up to which OpenBLAS, which NumPy brings, uses the calling thread alone."""


def remembered(key: Key, decide: Callable[[torch.Generator], Any]) -> Any:
    """What was decided for this key in this process, or is decided now. Deciding twice gives the same."""
    found = _chosen.get(key)
    if found is None:
        with torch.enable_grad():
            found = _chosen[key] = decide(torch.Generator().manual_seed(0))
    return found


def describe(tensor: Tensor) -> Key:
    """What a kernel may choose its way by: shape, type, device, and whether the rows are one and the same."""
    return (tuple(tensor.shape), tensor.dtype, tensor.device.type, tensor.stride(0) == 0)


def random_like(stack: Tensor, source: torch.Generator) -> Tensor:
    """Normal numbers in place of those of `stack` `[G, …]`, the same for all rows where they are so there."""
    if not stack.is_floating_point():
        return stack.detach()
    shared = stack.stride(0) == 0
    drawn = torch.randn(stack.shape[1:] if shared else stack.shape, dtype=torch.float64, generator=source)
    drawn = drawn.to(stack.device, stack.dtype)
    if shared:
        return drawn.expand(stack.shape)
    # Parameters are views into the rows of a `[G, d]` matrix: a kernel may go another way where rows lie apart.
    apart = torch.empty_strided(stack.shape, stack.stride(), dtype=stack.dtype, device=stack.device)
    return apart.copy_(drawn) if 0 not in stack.stride() else drawn


_WORDS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal in shape, type and every bit, the sign of zeros and NaN included."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    words = _WORDS[a.dtype.itemsize]
    return torch.equal(a.contiguous().view(words), b.contiguous().view(words))


_CLOSE = {torch.float64: 1e-12, torch.float32: 1e-3}
"""Relative to the norm: TF32, where the experiment allows it, keeps ten bits of a factor."""


def stands_for(a: Tensor, b: Tensor) -> bool:
    """Whether a kernel that gives a may be used for one that gives b: on the CPU where every bit is the same.

    On a GPU batched kernels round otherwise, and `[execution] fuse = "always"` asks for them: close is enough.
    """
    if a.device.type == "cpu" or not a.is_floating_point() or (a.dtype, a.shape) != (b.dtype, b.shape):
        return same_bits(a, b)
    return bool((a - b).norm() <= _CLOSE.get(a.dtype, 1e-2) * b.norm())


# --- the linear layer -------------------------------------------------------------------------------------------------


class Linear(torch.autograd.Function):
    """x `[G, b, i]`, w `[G, o, i]`, bias `[G, o]` or None -> `[G, b, o]`; the weights' gradients are contiguous."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, plan: Plan) -> Tensor:
        """Remember the operands, and multiply by the kernels of `linear_plan`."""
        ctx.save_for_backward(x, w)
        ctx.plan = plan
        y: Tensor = FORWARD[plan[0]](x, w, bias)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The three products of the backward pass, each by its own kernel."""
        x, w = ctx.saved_tensors
        g, plan, needs = grads[0], ctx.plan, ctx.needs_input_grad
        dx = DX[plan[1]](g, w) if needs[0] else None
        dw = DW[plan[2]](g, x, torch.empty_like(w, memory_format=torch.contiguous_format)) if needs[1] else None
        db = DB[plan[3]](g) if needs[2] else None
        return dx, dw, db, None


def linear_plan(x: Tensor, w: Tensor, bias: Tensor | None, needs_dx: bool) -> Plan | None:
    """Names of the kernels for these shapes: forward, dx, dw, db. None: torch's own layer has to be called for each."""
    key = ("linear", describe(x), describe(w), bias is None, needs_dx)
    plan: Plan = remembered(key, lambda source: _find_linear_plan(x, w, bias, needs_dx, source))
    return plan or None


def _find_linear_plan(x: Tensor, w: Tensor, bias: Tensor | None, needs_dx: bool, source: torch.Generator) -> Plan:
    clients, b, o = x.shape[0], x.shape[1], w.shape[1]
    agreed = [list(FORWARD), list(DX), list(DW), list(DB)]
    for _ in range(1 + _VALUES // max(1, clients * min(b * o, b * x.shape[2]))):
        xs, ws = random_like(x.detach(), source), random_like(w.detach(), source)
        bs = None if bias is None else random_like(bias.detach(), source)
        g = random_like(torch.empty(clients, b, o, dtype=x.dtype, device=x.device), source)
        g[::2, :, :1] = 0  # as of a ReLU that is off: the sign of a sum of zeros differs between libraries
        y, dx, dw, db = _alone(xs, ws, bs, g)
        into = torch.empty_like(dw)
        agreed[0] = _agreeing(agreed[0], FORWARD, (xs, ws, bs), y)
        agreed[1] = _agreeing(agreed[1], DX, (g, ws), dx) if needs_dx else agreed[1]
        agreed[2] = _agreeing(agreed[2], DW, (g, xs, into), dw)
        agreed[3] = agreed[3] if db is None else _agreeing(agreed[3], DB, (g,), db)
    if not all(agreed):
        return ()
    dw_kernel = _fastest(agreed[2], DW, (g, xs, into))
    return agreed[0][0], agreed[1][0], dw_kernel, agreed[3][0]


def _agreeing(names: list[str], kernels: dict[str, Any], operands: tuple[Any, ...], expected: Tensor) -> list[str]:
    """Those of the kernels that give what was expected; one that does not apply gives None."""
    agreeing = []
    for name in names:
        y = kernels[name](*operands)  # looked at before the next one writes where it lies
        if y is not None and stands_for(y, expected):
            agreeing.append(name)
    return agreeing


def _fastest(names: list[str], kernels: dict[str, Any], operands: tuple[Any, ...]) -> str:
    """The one that took the least time once; "each", which takes a call a client, only where there is no other."""
    tried = [name for name in names if name != "each"]
    if len(tried) < 2:
        return names[0]
    took = dict.fromkeys(tried, math.inf)
    for _ in range(_TRIES):
        for name in tried:
            started = time.perf_counter()
            kernels[name](*operands)
            took[name] = min(took[name], time.perf_counter() - started)
    return min(took, key=took.__getitem__)


def _alone(x: Tensor, w: Tensor, bias: Tensor | None, g: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """What each client gets when it is alone: torch's linear layer and its derivative, stacked."""
    rows = []
    for k in range(x.shape[0]):
        leaves = [t[k].detach().clone().requires_grad_() for t in (x, w, bias) if t is not None]
        y = functional.linear(*leaves)
        # As a product: handing the cotangent to autograd itself makes torch import SymPy, which takes seconds.
        rows.append((y.detach(), *torch.autograd.grad((y * g[k]).sum(), leaves)))
    stacked = [torch.stack(column) for column in zip(*rows, strict=True)]
    return stacked[0], stacked[1], stacked[2], stacked[3] if bias is not None else None


def _shared(rows: Tensor) -> Tensor | None:
    """The one matrix all rows are, or None."""
    return rows[0] if rows.stride(0) == 0 or rows.shape[0] == 1 else None


def _forward_together(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor | None:
    one = _shared(w)
    if one is None:
        return None
    flat = x.reshape(-1, x.shape[2])
    y = torch.mm(flat, one.t()) if bias is None else torch.addmm(bias[0], flat, one.t())
    return y.view(x.shape[0], x.shape[1], -1)


def _forward_batched(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return torch.bmm(x, w.transpose(1, 2))
    return torch.baddbmm(bias.unsqueeze(1), x, w.transpose(1, 2))


def _forward_each(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    y = x.new_empty(x.shape[0], x.shape[1], w.shape[1])
    if bias is None:
        for one, rows, out in zip(w.unbind(), x.unbind(), y.unbind(), strict=True):
            torch.mm(rows, one.t(), out=out)
    else:
        for one, shift, rows, out in zip(w.unbind(), bias.unbind(), x.unbind(), y.unbind(), strict=True):
            torch.addmm(shift, rows, one.t(), out=out)
    return y


def _dx_together(g: Tensor, w: Tensor) -> Tensor | None:
    one = _shared(w)
    return None if one is None else torch.mm(g.reshape(-1, g.shape[2]), one).view(*g.shape[:2], -1)


def _dx_each(g: Tensor, w: Tensor) -> Tensor:
    dx = g.new_empty(g.shape[0], g.shape[1], w.shape[2])
    for one, rows, out in zip(w.unbind(), g.unbind(), dx.unbind(), strict=True):
        torch.mm(rows, one, out=out)
    return dx


def _dw_numpy(g: Tensor, x: Tensor, out: Tensor) -> Tensor | None:
    """By NumPy's library, which is faster at small products than MKL."""
    if not _is_numpys(x) or g.shape[1] * g.shape[2] * x.shape[2] > _ONE_THREAD:
        return None
    np.matmul(g.detach().transpose(1, 2).numpy(), x.detach().numpy(), out=out.numpy())
    return out


def _dw_summed(g: Tensor, x: Tensor, out: Tensor) -> Tensor | None:
    """Sample after sample, as torch adds the smallest products, in a third of its time."""
    if not _is_numpys(x) or g.shape[1] * g.shape[2] * x.shape[2] > _SMALL:
        return None
    # How numbers lie decides in which order they are added.
    into = out if out.is_contiguous() else torch.empty(out.shape, dtype=out.dtype)
    np.einsum("gbo,gbi->goi", g.detach().contiguous().numpy(), x.detach().contiguous().numpy(), out=into.numpy())
    return out if into is out else out.copy_(into)


def _is_numpys(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def _dw_batched(g: Tensor, x: Tensor, out: Tensor) -> Tensor:
    if out.is_contiguous():
        return torch.bmm(g.transpose(1, 2), x, out=out)
    return out.copy_(torch.bmm(g.transpose(1, 2), x))


def _dw_each(g: Tensor, x: Tensor, out: Tensor) -> Tensor:
    for rows, samples, into in zip(g.unbind(), x.unbind(), out.unbind(), strict=True):
        torch.mm(rows.t(), samples, out=into)
    return out


FORWARD: dict[str, Callable[[Tensor, Tensor, Tensor | None], Any]] = {
    "together": _forward_together,
    "batched": _forward_batched,
    "each": _forward_each,
}
DX: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "together": _dx_together,
    "batched": torch.bmm,
    "each": _dx_each,
}
DW: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "numpy": _dw_numpy,
    "summed": _dw_summed,
    "batched": _dw_batched,
    "each": _dw_each,
}
"""Written into the third argument `[G, o, i]`, whose rows may lie apart."""
DB: dict[str, Callable[[Tensor], Tensor]] = {
    "batched": lambda g: g.sum(1),
    "each": lambda g: torch.stack([rows.sum(0) for rows in g.unbind()]),
}


# --- a step of gradient descent ---------------------------------------------------------------------------------------


def step_down(x: Tensor, g: Tensor, lr: float, out: Tensor) -> None:
    """out = x - lr g, of `[G, n]` that may be columns of wider matrices; out may be x.

    Each number as the addition of two whole vectors rounds it. One of columns may multiply and add in one rounding
    where that does so in two, or the other way round.
    """
    key = ("step", describe(x), x.stride(), g.stride(), out.stride(), out is x)
    if remembered(key, lambda source: _steps_apart(x, g, out, source)):
        torch.add(x, g, alpha=-lr, out=out)
    else:
        out.copy_(torch.add(x.contiguous(), g.contiguous(), alpha=-lr))


def _steps_apart(x: Tensor, g: Tensor, out: Tensor, source: torch.Generator) -> bool:
    """Whether columns are added as whole vectors are."""
    for _ in range(1 + _VALUES // max(1, x.numel())):
        xs, gs = random_like(x, source), random_like(g, source)
        expected = torch.add(xs.contiguous(), gs.contiguous(), alpha=-0.3)
        into = xs if out is x else torch.empty_strided(out.shape, out.stride(), dtype=x.dtype, device=x.device)
        if not stands_for(torch.add(xs, gs, alpha=-0.3, out=into), expected):
            return False
    return True


def each_client(function: Callable[..., Any], stacks: Sequence[Any], size: int) -> Any:
    """One call a client, results stacked: what every other way must equal. A tuple of tensors is stacked by parts."""
    rows = [stack.unbind() if isinstance(stack, Tensor) else [stack] * size for stack in stacks]
    results = [function(*arguments) for arguments in zip(*rows, strict=True)]
    if isinstance(results[0], Tensor):
        return torch.stack(results)
    if isinstance(results[0], tuple) and all(isinstance(part, Tensor) for part in results[0]):
        return tuple(torch.stack(parts) for parts in zip(*results, strict=True))
    raise TypeError(f"a {type(results[0]).__name__} has no form for many clients at once")
