"""Which optimizers of torch.optim (and our Yogi) an experiment may name, on either side, and what options they take.

Those that move one flat vector by its gradient: all but L-BFGS (needs a closure), SparseAdam (sparse
gradients) and Muon (matrices). Options that choose an implementation, not a method (`foreach`, `fused`, …),
are left to the executor.
"""

from __future__ import annotations

import functools
import inspect
import operator
import types
import typing
from typing import Annotated, Any, Literal, Union

import torch
from msgspec import Meta
from torch.optim import Optimizer

from fl_core.errors import ExperimentError, nearest
from fl_core.experiment.schema import PlugIn
from fl_core.options import MISSING, Count, NonNegative, Option, Positive, check_options, options_of, spelling
from fl_core.yogi import Yogi

_UNUSABLE = frozenset({"Optimizer", "LBFGS", "SparseAdam", "Muon"})
_IMPLEMENTATION = ("params", "foreach", "fused", "capturable", "differentiable", "maximize")

ServerLr = Positive | Literal["theory"]

SCHEDULES: dict[str, dict[str, Option]] = {
    "constant": {},
    "step": {"step_size": Option(Count, None), "gamma": Option(Positive, None)},
    "exponential": {"gamma": Option(Positive, None)},
    "cosine": {"eta_min": Option(NonNegative, None)},
    "linear": {"end_factor": Option(Annotated[float, Meta(ge=0, le=1)], None)},
}
"""The schedules of `[server]` and their options, named as torch.optim.lr_scheduler names them."""


@functools.cache
def _classes() -> dict[str, type[Optimizer]]:
    members = inspect.getmembers(torch.optim, inspect.isclass)
    usable = {n.lower(): c for n, c in members if issubclass(c, Optimizer) and n not in _UNUSABLE}
    return usable | {"yogi": Yogi}


def optimizer_names() -> list[str]:
    """The names an experiment may use, in lower case."""
    return sorted(_classes())


def optimizer_class(name: str) -> type[Optimizer]:
    """The class of that name (case and hyphens do not count).

    Raises:
        ExperimentError: torch.optim has none of that name that moves one flat vector by its gradient.
    """
    found = _classes().get(spelling(name).replace("-", ""))
    if found is None:
        near = nearest(name, optimizer_names())
        listed = "" if near else f"; there are: {', '.join(optimizer_names())}"
        raise ExperimentError(f'there is no optimizer "{name}"{listed}', suggestion=near)
    return found


def optimizer_options(name: str) -> dict[str, Option]:
    """The options of an optimizer, as its constructor has them (but that a number is never a tensor)."""
    options = options_of(optimizer_class(name), context=_IMPLEMENTATION)
    return {key: Option(_without_tensors(option.type), option.default) for key, option in options.items()}


def _without_tensors(annotation: Any) -> Any:
    """`float | Tensor` is `float` in a file, also inside a tuple."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if not args:
        return annotation
    kept = [_without_tensors(arg) for arg in args if arg is not torch.Tensor]
    if origin in (Union, types.UnionType):
        return functools.reduce(operator.or_, kept)
    return types.GenericAlias(tuple, tuple(kept)) if origin is tuple else annotation


def check_optimizer(plug: PlugIn, path: str, *, lr: Any = Positive) -> PlugIn:
    """The optimizer's table with its options checked, by their types and by the optimizer itself.

    Args:
        plug: what the file says.
        path: dotted path of the table.
        lr: what `lr` may be; it has to be given, since no default suits both sides.

    Raises:
        ExperimentError: no such optimizer, no such option, a value that does not fit, or no lr.
    """
    try:
        known = optimizer_options(plug.name)
    except ExperimentError as error:
        raise ExperimentError(error.message, path=f"{path}.name", suggestion=error.suggestion) from None
    options = check_options(plug.options, {**known, "lr": Option(lr, MISSING)}, path=path, owner=plug.name)
    numeric = {key: value for key, value in options.items() if key != "lr" or value != "theory"}
    if numeric.keys() <= {"lr"}:
        return PlugIn(plug.name, options)  # nothing to ask torch: its first optimizer costs 3 s (imports dynamo)
    try:
        optimizer_class(plug.name)([torch.zeros(1)], **numeric)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ExperimentError(f"torch refuses it: {error}", path=path) from None
    return PlugIn(plug.name, options)


def check_schedule(plug: PlugIn, path: str) -> PlugIn:
    """The schedule's table, checked. Raises ExperimentError as `check_optimizer` does."""
    if plug.name not in SCHEDULES:
        near = nearest(plug.name, SCHEDULES)
        listed = "" if near else f"; there are: {', '.join(SCHEDULES)}"
        raise ExperimentError(f'there is no schedule "{plug.name}"{listed}', path=f"{path}.name", suggestion=near)
    return PlugIn(plug.name, check_options(plug.options, SCHEDULES[plug.name], path=path, owner=plug.name))
