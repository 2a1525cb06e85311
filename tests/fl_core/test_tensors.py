"""Tensors as bytes and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fl_core.tensors import DTYPES, NAMES, ChangedInPlaceError, bytes_of, tensor_of, unchanged
from protocol.fields import DTYPE_BYTES


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (5,), (2, 3)])
def test_every_type_and_shape_comes_back(name: str, shape: tuple[int, ...]) -> None:
    """All types that may cross come back bit for bit, zero-dimensional and empty ones too."""
    values = torch.randint(0, 2, shape) if name == "bool" else torch.randint(-50, 50, shape)
    tensor = values.to(DTYPES[name])
    raw = bytes_of(tensor)
    assert raw.dtype == np.uint8
    assert (raw.ndim, raw.nbytes) == (1, tensor.nbytes)
    back = tensor_of(raw, name, shape)
    assert back.dtype == tensor.dtype
    assert back.shape == tensor.shape
    assert torch.equal(back, tensor)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16", "float64"])
def test_special_values_keep_their_bits(name: str) -> None:
    """-0.0, inf, the smallest subnormal, NaN: the very bits."""
    dtype = DTYPES[name]
    tensor = torch.tensor([-0.0, float("inf"), float("-inf"), float("nan"), torch.finfo(dtype).tiny / 2], dtype=dtype)
    assert torch.equal(tensor_of(bytes_of(tensor).copy(), name, (5,)).view(torch.uint8), tensor.view(torch.uint8))


def test_a_contiguous_tensor_is_not_copied() -> None:
    """Neither way: a model is sent from, and received into, its own memory."""
    tensor = torch.arange(6.0)
    raw = bytes_of(tensor)
    tensor[0] = 42.0
    back = tensor_of(raw, "float32", (2, 3))
    assert back[0, 0] == 42.0
    back[1, 2] = -1.0
    assert tensor[5] == -1.0


def test_views_are_sent_as_they_look() -> None:
    """A transposed, strided or expanded tensor gives the bytes of its values in order."""
    base = torch.arange(12.0).reshape(3, 4)
    for view in (base.T, base[:, 1:3], base[::2], base[0].expand(2, 4)):
        assert torch.equal(tensor_of(bytes_of(view), "float32", tuple(view.shape)), view)


def test_a_tensor_with_a_gradient_is_sent() -> None:
    """A parameter is as good as any tensor."""
    assert bytes_of(torch.ones(2, requires_grad=True)).nbytes == 8


def test_a_type_without_a_name_is_refused() -> None:
    """Complex numbers do not cross; the error lists what does."""
    with pytest.raises(TypeError, match=r"complex64 cannot be sent; use one of float32, float64"):
        bytes_of(torch.zeros(2, dtype=torch.complex64))


@pytest.mark.parametrize(("nbytes", "shape"), [(11, (3,)), (13, (3,)), (5, ()), (0, (1,)), (8, (0,))])
def test_bytes_that_do_not_fit_are_refused(nbytes: int, shape: tuple[int, ...]) -> None:
    """One byte too many or too few is an error that names both."""
    with pytest.raises(ValueError, match=f"{nbytes} bytes cannot be a tensor float32"):
        tensor_of(np.zeros(nbytes, np.uint8), "float32", shape)


def test_an_unknown_type_is_refused() -> None:
    """A type's name is looked up, never evaluated."""
    with pytest.raises(ValueError, match="unknown tensor type 'float8'"):
        tensor_of(np.zeros(1, np.uint8), "float8", (1,))


def test_the_protocol_knows_the_same_types() -> None:
    """The names and sizes here are those of the wire's schema."""
    assert {name: dtype.itemsize for name, dtype in DTYPES.items()} == DTYPE_BYTES
    assert {NAMES[dtype] for dtype in DTYPES.values()} == set(DTYPES)


def test_a_tensor_that_is_everyone_s_may_be_read() -> None:
    """Reading, copying, and writing into copies are fine; numbers among a record's fields are left alone."""
    x = torch.ones(3)
    with unchanged(x0=x, s={"c": x, "rate": 0.5}):
        y = x.clone().add_(1) + x[1:].sum()
    assert y.tolist() == [4.0, 4.0, 4.0]


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (lambda x, c: x.add_(1), "x0"),
        (lambda x, c: x[1:].zero_(), "x0"),
        (lambda x, c: c.view(-1).mul_(2), r"s\.c"),
        (lambda x, c: torch.add(x, 1, out=c), r"s\.c"),
    ],
)
def test_a_tensor_that_is_everyone_s_may_not_be_written(write: Any, name: str) -> None:
    """In place, through a view, as an output: the error names the tensor."""
    x, c = torch.ones(3), torch.ones(3)
    with pytest.raises(ChangedInPlaceError, match=rf"^{name} was changed in place"), unchanged(x0=x, s={"c": c}):
        write(x, c)


def test_another_error_comes_first() -> None:
    """What the code itself raised is what is seen."""
    x = torch.ones(3)
    with pytest.raises(ZeroDivisionError), unchanged(x0=x):
        x.add_(1 // 0)
