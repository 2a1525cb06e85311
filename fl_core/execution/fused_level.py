"""Many clients as one: a level of torch's vmap in which a tensor that differs between clients carries its stack.

torch.func.vmap offers no way to step out of it for one operation, which the fused run does all the time: to ask a
batched oracle, to compress a stack, to run a kernel of our own. This module does that with torch's own primitives; all
that is private in torch is here, and where a torch lacks it nothing is fused.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import forward_ad

try:
    from torch._C import _functorch

    _NEEDED = (
        "_vmap_increment_nesting _vmap_decrement_nesting _add_batch_dim get_unwrapped is_batchedtensor maybe_get_bdim "
        "peek_interpreter_stack pop_dynamic_layer_stack push_dynamic_layer_stack"
    )
    AVAILABLE = all(hasattr(_functorch, name) for name in _NEEDED.split())
except ImportError:  # a torch that has renamed its parts: everything runs client by client
    AVAILABLE = False


class Level:
    """Inside `with level:` one computation stands for `size` clients.

    Args:
        size: G.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._number = 0

    def __enter__(self) -> Level:
        self._number = _functorch._vmap_increment_nesting(self.size, "error")
        return self

    def __exit__(self, *exception: object) -> None:
        _functorch._vmap_decrement_nesting()

    def of(self, stack: Tensor) -> Tensor:
        """One client's tensor, standing for the rows of `stack` `[G, …]`."""
        wrapped: Tensor = _functorch._add_batch_dim(stack, 0, self._number)
        return wrapped

    def stack(self, value: Tensor) -> Tensor:
        """`[G, …]`: the rows a tensor stands for; of one that is the same for all, a view without copies."""
        if not _functorch.is_batchedtensor(value):
            return value.expand(self.size, *value.shape)
        dim = _functorch.maybe_get_bdim(value)
        rows: Tensor = _functorch.get_unwrapped(value)
        return rows if dim == 0 else rows.movedim(dim, 0)


def is_plain(x: Tensor) -> bool:
    """Whether an operation on x is no more than that: no level of ours is open, nor a transform of torch.func."""
    if not AVAILABLE or _functorch.peek_interpreter_stack() is not None:
        return False
    dual = forward_ad.unpack_dual(x)  # type: ignore[no-untyped-call]  # torch's own, without types
    return dual.tangent is None


def differs(value: Any) -> bool:
    """Whether a value is a tensor that differs between the clients of the present level."""
    return isinstance(value, Tensor) and bool(_functorch.is_batchedtensor(value))


class outside:  # noqa: N801  read as a word: with outside()
    """Leave the level for a while: stacks are ordinary tensors here."""

    def __enter__(self) -> None:
        self._layers: list[Any] = []
        while _functorch.peek_interpreter_stack() is not None:
            self._layers.append(_functorch.pop_dynamic_layer_stack())

    def __exit__(self, *exception: object) -> None:
        while self._layers:
            _functorch.push_dynamic_layer_stack(self._layers.pop())
