"""Tensors as raw bytes and back, without copying: what crosses the network or lies in a file is their memory."""

from __future__ import annotations

from collections.abc import Mapping

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


class Unchanged:
    """Within it, nobody may write into these tensors: they are everyone's.

    Args:
        named: what they are called, and the tensors.
        mappings: more of them, called "mapping.name"; what is no tensor there does not count.

    Raises:
        ChangedInPlaceError: at the end, where someone did; the text names the tensor.
    """

    def __init__(self, named: Mapping[str, Tensor], **mappings: Mapping[str, object]) -> None:
        self._before = [(name, tensor, tensor._version) for name, tensor in named.items()]
        for mapping, given in mappings.items():
            for key, value in given.items():
                if isinstance(value, Tensor):
                    self._before.append((f"{mapping}.{key}", value, value._version))

    def __enter__(self) -> None:
        """Nothing: the versions were taken when this was made."""

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        if kind is not None:
            return
        for name, tensor, version in self._before:
            if tensor._version != version:
                raise ChangedInPlaceError(
                    f"{name} was changed in place, but other clients share it: work on a copy "
                    "(a first layer with inplace=True also writes into the client's data)"
                )


def unchanged(**shared: Tensor | Mapping[str, object]) -> Unchanged:
    """`Unchanged` of tensors by their names, and of mappings of them."""
    tensors = {name: given for name, given in shared.items() if isinstance(given, Tensor)}
    return Unchanged(tensors, **{name: given for name, given in shared.items() if not isinstance(given, Tensor)})


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
