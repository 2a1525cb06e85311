"""What torch's functions do while one computation stands for many clients: each client must get its own bits.

Most of arithmetic rounds a number alike wherever it lies in memory, and vmap's own rules serve. What does not (sums,
whose order a layout changes; exponentials, whose last few elements another kernel computes), is tried once a shape
against one call a client, forward and backward, and runs client by client where it differs. Layers have kernels of ours
(`kernels`, `loss_kernels`); random functions draw from each client's own generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fl_core.execution.fused_level import Level, differs, outside
from fl_core.execution.kernels import (
    Linear,
    describe,
    each_client,
    linear_plan,
    random_like,
    remembered,
    stands_for,
)
from fl_core.execution.loss_kernels import CrossEntropy
from fl_core.randomness import ClientRandomness


class CannotFuseError(RuntimeError):
    """Something that has no form for many clients at once; the cohort then runs client by client."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_EXACT = _words(
    "add sub subtract mul multiply div divide true_divide neg negative abs absolute sign square sqrt relu clamp clip "
    "clamp_min clamp_max maximum minimum where eq ne lt le gt ge logical_and logical_or logical_not max_pool1d "
    "max_pool2d max_pool3d _max_pool2d hardtanh relu6 leaky_relu threshold isfinite isnan isinf floor ceil round trunc "
    "amax amin argmax argmin sort topk gather rsub "
    "__add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __neg__ __abs__ __eq__ __ne__ __lt__ "
    "__le__ __gt__ __ge__ __and__ __or__ __invert__ add_ sub_ mul_ div_ neg_ copy_ zero_ fill_ relu_ clamp_ abs_ "
    "__iadd__ __isub__ __imul__ __itruediv__"
)
"""Rounded alike wherever a number lies, or not at all."""

_LAYOUT = _words(
    "view reshape flatten unflatten squeeze unsqueeze transpose permute t movedim swapaxes expand expand_as contiguous "
    "clone detach to type float double half bfloat16 cpu cat stack concat split chunk unbind narrow select "
    "index_select flip roll repeat repeat_interleave tile broadcast_to view_as reshape_as zeros_like ones_like "
    "full_like empty_like new_zeros new_ones new_full new_empty new_tensor as_tensor tensor zeros ones full arange "
    "empty pad unfold diagonal requires_grad_ type_as __getitem__"
)
"""Moves numbers, or makes the same for all."""

_ASKS = _words(
    "__get__ dim ndimension size numel nelement stride is_floating_point is_contiguous __len__ get_device "
    "element_size is_complex data_ptr has_torch_function_unary result_type broadcast_shapes is_tensor is_grad_enabled "
    "storage_offset __hash__ __repr__ set_grad_enabled"
)
"""Asks about a tensor, or changes nothing."""

_RANDOM = _words("rand randn randint randperm rand_like randn_like randint_like")
_DROPOUTS = _words("dropout dropout1d dropout2d dropout3d")


_PLAIN_CROSS_ENTROPY = {
    "weight": None,
    "size_average": None,
    "ignore_index": -100,
    "reduce": None,
    "reduction": "mean",
    "label_smoothing": 0.0,
}


class ClientFunctions(TorchFunctionMode):
    """Inside it, every torch function gives each client of the level what it would have alone.

    Args:
        level: the clients.
        generator_of: row -> that client's own generator, the one it has in a run of its own.
    """

    def __init__(self, level: Level, generator_of: Callable[[int], torch.Generator]) -> None:
        super().__init__()
        self._level = level
        self._generator_of = generator_of

    def enter(self) -> None:
        """As `with` does."""
        self.__enter__()  # type: ignore[no-untyped-call]  # torch's base has no types

    def leave(self) -> None:
        """As the end of a `with` does."""
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _EXACT or name in _LAYOUT or name in _ASKS:
            return func(*args, **kwargs)
        kernel = _KERNELS.get(func)
        if kernel is not None:
            return kernel(self, *args, **kwargs)
        if (name in _RANDOM and kwargs.get("generator") is None) or name in _DROPOUTS:
            return self._random(func, args, kwargs)
        if not any(differs(value) for value in _leaves((args, kwargs))):
            return func(*args, **kwargs)
        return self._alike(func, name, args, kwargs)

    # --- kernels of ours -------------------------------------------------------------------------------------------

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
        if input.dim() != 2 or not (differs(input) or differs(weight)):
            return self._each(functional.linear, (input, weight, bias), {})
        level = self._level
        x, w = level.stack(input), level.stack(weight)
        shift = None if bias is None else level.stack(bias)
        with outside():
            plan = linear_plan(x, w, shift, x.requires_grad)
            y = None if plan is None else Linear.apply(x, w, shift, plan)
        return self._each(functional.linear, (input, weight, bias), {}) if y is None else level.of(y)

    def _cross_entropy(self, input: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Any:
        plain = not args and kwargs.items() <= _PLAIN_CROSS_ENTROPY.items()
        if not plain or input.dim() != 2 or target.dim() != 1:
            return self._each(functional.cross_entropy, (input, target, *args), kwargs)
        z, labels = self._level.stack(input), self._level.stack(target)
        with outside():
            value = CrossEntropy.apply(z, labels)
        return self._level.of(value)

    # --- everything else -------------------------------------------------------------------------------------------

    def _alike(self, func: Callable[..., Any], name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """vmap's own rule where it rounds as one call a client does, else one call a client."""
        if name.endswith("_") and not name.endswith("__"):
            raise CannotFuseError(f"{name} writes into its argument, and is not known to do so alike for many clients")
        flat, rebuild = _flattened(args, kwargs)
        stacks = [self._level.stack(value) if differs(value) else value for value in flat]
        key = (func, self._level.size, *(_told(a, b) for a, b in zip(flat, stacks, strict=True)))
        with outside():
            rounds_alike = remembered(key, lambda source: _rounds_alike(func, flat, stacks, rebuild, source))
        if rounds_alike:
            return func(*args, **kwargs)
        return self._each(func, args, kwargs)

    def _each(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        flat, rebuild = _flattened(args, kwargs)
        stacks = [self._level.stack(value) if differs(value) else _Same(value) for value in flat]
        with outside():
            result = _client_by_client(func, stacks, rebuild, self._level.size)
        return tuple(map(self._level.of, result)) if isinstance(result, tuple) else self._level.of(result)

    def _random(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        flat, rebuild = _flattened(args, kwargs)
        stacks = [self._level.stack(value) if differs(value) else _Same(value) for value in flat]
        drawn = []
        with outside():
            for row in range(self._level.size):
                with ClientRandomness(self._generator_of(row)):
                    args, kwargs = rebuild([_row(stack, row) for stack in stacks])
                    drawn.append(func(*args, **kwargs))
            together = torch.stack(drawn)
        return self._level.of(together)


class _Same:
    """An argument that is the same for all clients."""

    def __init__(self, value: Any) -> None:
        self.value = value


_KERNELS: dict[Any, Callable[..., Any]] = {
    functional.linear: ClientFunctions._linear,
    functional.cross_entropy: ClientFunctions._cross_entropy,
}


def _row(stack: Any, row: int) -> Any:
    return stack.value if isinstance(stack, _Same) else stack[row]


def _client_by_client(
    func: Callable[..., Any], stacks: Sequence[Any], rebuild: Callable[[list[Any]], Any], size: int
) -> Any:
    def call(*values: Any) -> Any:
        args, kwargs = rebuild([s.value if isinstance(s, _Same) else v for s, v in zip(stacks, values, strict=True)])
        return func(*args, **kwargs)

    try:
        return each_client(call, [None if isinstance(s, _Same) else s for s in stacks], size)
    except TypeError as error:
        raise CannotFuseError(f"it uses {getattr(func, '__name__', func)}: {error}") from error


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, tuple | list):
        return [leaf for part in value for leaf in _leaves(part)]
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in _leaves(part)]
    return [value]


def _flattened(args: Any, kwargs: dict[str, Any]) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """The arguments as one list, and what makes (args, kwargs) of such a list. Tensors inside a list stay there."""
    if any(differs(leaf) for value in (*args, *kwargs.values()) if isinstance(value, tuple | list) for leaf in value):
        raise CannotFuseError("a list of tensors that differ between clients, given to an operation not known for that")
    count, names = len(args), list(kwargs)

    def rebuild(values: list[Any]) -> Any:
        return tuple(values[:count]), dict(zip(names, values[count:], strict=True))

    return [*args, *kwargs.values()], rebuild


def _told(value: Any, stack: Any) -> Any:
    """An argument, as far as it may choose a kernel."""
    if isinstance(value, Tensor):
        kind = describe(stack) if differs(value) else (tuple(stack.shape), stack.dtype)
        return (kind, stack.requires_grad)
    return value if isinstance(value, int | float | str | bool | None) else repr(value)


def _rounds_alike(
    func: Callable[..., Any],
    flat: list[Any],
    stacks: list[Any],
    rebuild: Callable[[list[Any]], Any],
    source: torch.Generator,
) -> bool:
    """Whether vmap's rule of `func` has the bits of one call a client, forward and backward, on random numbers."""
    made: list[Any] = []
    for value, stack in zip(flat, stacks, strict=True):
        if not differs(value):
            made.append(_Same(value))
        else:
            made.append(random_like(stack, source).requires_grad_(stack.requires_grad))
    size = next(stack.shape[0] for stack in made if isinstance(stack, Tensor))
    leaves = [stack for stack in made if isinstance(stack, Tensor) and stack.requires_grad]
    expected = _client_by_client(func, made, rebuild, size)
    try:
        with Level(size) as level:
            args, kwargs = rebuild([s.value if isinstance(s, _Same) else level.of(s) for s in made])
            result = func(*args, **kwargs)
            parts = result if isinstance(result, tuple) else (result,)
            found = tuple(level.stack(part) for part in parts)
    except (RuntimeError, TypeError, NotImplementedError):  # no rule of vmap's, or one that does not work
        return False
    wanted = expected if isinstance(expected, tuple) else (expected,)
    if not all(stands_for(a, b) for a, b in zip(found, wanted, strict=True)):
        return False
    if not leaves or not found[0].requires_grad:
        return True
    cotangent = random_like(found[0].detach().contiguous(), source)
    # As a product: handing the cotangent to autograd itself makes torch import SymPy, which takes seconds.
    ours = torch.autograd.grad((found[0] * cotangent).sum(), leaves, materialize_grads=True)
    theirs = torch.autograd.grad((wanted[0] * cotangent).sum(), leaves, materialize_grads=True)
    return all(stands_for(a, b) for a, b in zip(ours, theirs, strict=True))
