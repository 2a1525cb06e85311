"""Tensors as raw bytes and back, without copying: what crosses the network or lies in a file is their memory."""

from __future__ import annotations

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
