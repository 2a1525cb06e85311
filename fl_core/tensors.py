"""Tensors as raw bytes and back, without copying: what crosses the network or lies in a file is their memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
    "int32": torch.int32,
    "int16": torch.int16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
"""Every type that may cross, by the name it crosses under."""

NAMES = {dtype: name for name, dtype in DTYPES.items()}


class ChangedInPlaceError(RuntimeError):
    """Code that runs for one client wrote into a tensor that others share."""


@contextmanager
def unchanged(**shared: Tensor | Mapping[str, object]) -> Iterator[None]:
    """Within it, nobody may write into these tensors (or, by name, those of a mapping): they are everyone's.

    Raises:
        ChangedInPlaceError: someone did; the text names the tensor.
    """
    named = {
        name if key is None else f"{name}.{key}": value
        for name, given in shared.items()
        for key, value in (given.items() if isinstance(given, Mapping) else [(None, given)])
        if isinstance(value, Tensor)
    }
    before = {name: tensor._version for name, tensor in named.items()}
    yield
    for name, tensor in named.items():
        if tensor._version != before[name]:
            raise ChangedInPlaceError(
                f"{name} was changed in place, but other clients share it: work on a copy "
                "(a first layer with inplace=True also writes into the client's data)"
            )


def bytes_of(tensor: Tensor) -> np.ndarray:
    """The tensor's memory as uint8 `[nbytes]`: shared with it when it is contiguous and on the CPU, else a copy.

    Raises:
        TypeError: a type that has no name on the wire (complex, quantised).
    """
    if tensor.dtype not in NAMES:
        raise TypeError(f"a tensor of {tensor.dtype} cannot be sent; use one of {', '.join(DTYPES)}")
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if flat.numel() == 0:
        return np.empty(0, np.uint8)
    view: np.ndarray = flat.view(torch.uint8).numpy()
    return view


def tensor_of(buffer: np.ndarray, dtype: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor over the bytes of `buffer` (uint8), sharing its memory.

    Raises:
        ValueError: an unknown dtype, or a length that does not fit the shape.
    """
    if dtype not in DTYPES:
        raise ValueError(f"unknown tensor type {dtype!r}")
    kind = DTYPES[dtype]
    count = 1
    for size in shape:
        count *= size
    if buffer.nbytes != count * kind.itemsize:
        raise ValueError(f"{buffer.nbytes} bytes cannot be a tensor {dtype} {list(shape)}")
    if count == 0:
        return torch.empty(shape, dtype=kind)
    return torch.frombuffer(buffer, dtype=kind).view(shape)
