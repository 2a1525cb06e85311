"""Bodies: many buffers as one run of bytes, cut into pieces on one side and split into views on the other.

Each buffer starts at a multiple of 8 bytes of its body, so that a view of it is aligned for every dtype. The
receiving side allocates once a message; ``np.empty`` leaves the pages untouched until bytes arrive in them
(``bytearray`` would write zeros first, at five times the cost).

lz4 is used a buffer at a time, only when both sides offered it and samples show that it pays: dense float32
and bfloat16 vectors do not compress (ratio 0.996), indices, small integers and images do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import lz4.block
import numpy as np

from protocol.errors import LimitError, MessageError
from protocol.fields import Buffer
from protocol.frames import PIECE_BYTES

ALIGNMENT = 8
SAMPLES = 5
SAMPLE_BYTES = 10_000
WORTHWHILE_RATIO = 1.43  # dask's rule: below it, compressing costs more time than the link saves
LZ4_MAX_BYTES = 2_113_929_216  # of one lz4 block
LZ4_MAX_RATIO = 255  # a length byte of the format stands for at most 255 bytes
_PADDING = memoryview(bytes(ALIGNMENT))

BytesLike: TypeAlias = "bytes | bytearray | memoryview | np.ndarray[Any, Any]"
Bytes1d: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"


def padded(nbytes: int) -> int:
    """``nbytes`` and what is needed to reach a multiple of 8."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, slots=True)
class Body:
    """Buffers ready to be sent: what they are and, by reference, their bytes with the padding between."""

    buffers: tuple[Buffer, ...]
    parts: tuple[memoryview, ...]
    nbytes: int

    def pieces(self) -> Iterator[bytes | memoryview]:
        """The body in pieces of 1 MiB (the last is what is left); one within a single buffer is no copy."""
        gathered: list[memoryview] = []
        room = PIECE_BYTES
        for part in self.parts:
            while part:
                gathered.append(part[:room])
                part = part[room:]
                room -= len(gathered[-1])
                if room == 0:
                    yield gathered[0] if len(gathered) == 1 else b"".join(gathered)
                    gathered, room = [], PIECE_BYTES
        if gathered:
            yield gathered[0] if len(gathered) == 1 else b"".join(gathered)


def _flat(data: BytesLike) -> memoryview:
    """The bytes of ``data`` without a copy. Raises MessageError when they are not contiguous."""
    view = data.data if isinstance(data, np.ndarray) else memoryview(data)
    if view.nbytes == 0:
        return memoryview(b"")
    if not view.c_contiguous:
        raise MessageError("a buffer to be sent is not C-contiguous: make it so first")
    return view.cast("B")


def pack(data: Sequence[BytesLike]) -> Body:
    """A body of these buffers, uncompressed and without a copy: they must not change until it is sent."""
    return _join([(view, Buffer(view.nbytes, view.nbytes)) for view in map(_flat, data)])


def _join(items: Sequence[tuple[memoryview, Buffer]]) -> Body:
    parts: list[memoryview] = []
    for view, _ in items:
        parts.append(view)
        if len(view) % ALIGNMENT:
            parts.append(_PADDING[: -len(view) % ALIGNMENT])
    return Body(tuple(buffer for _, buffer in items), tuple(parts), sum(map(len, parts)))


def may_compress(body: Body) -> bool:
    """Whether any buffer is large enough to be sampled."""
    return any(SAMPLES * SAMPLE_BYTES <= buffer.nbytes <= LZ4_MAX_BYTES for buffer in body.buffers)


def compressed(body: Body) -> Body:
    """The same body with lz4 on each buffer where it pays. For a thread: it takes a second per gigabyte."""
    items: list[tuple[memoryview, Buffer]] = []
    views = iter(part for part in body.parts if part.obj is not _PADDING.obj)
    for buffer in body.buffers:
        view = next(views)
        if SAMPLES * SAMPLE_BYTES <= len(view) <= LZ4_MAX_BYTES and _pays(view):
            shorter = memoryview(lz4.block.compress(view, store_size=False))
            if len(shorter) * WORTHWHILE_RATIO <= len(view):
                view, buffer = shorter, Buffer(len(shorter), buffer.raw_nbytes, "lz4")
        items.append((view, buffer))
    return _join(items)


def _pays(view: memoryview) -> bool:
    step = (len(view) - SAMPLE_BYTES) // (SAMPLES - 1)
    sizes = (
        len(lz4.block.compress(view[start : start + SAMPLE_BYTES], store_size=False))
        for start in range(0, step * SAMPLES, step)
    )
    return sum(sizes) * WORTHWHILE_RATIO <= SAMPLES * SAMPLE_BYTES


def check_sizes(buffers: Sequence[Buffer], body_bytes: int, limit: int) -> None:
    """Refuse buffers that do not add up to the body, or would decompress to more than ``limit`` bytes."""
    if sum(padded(buffer.nbytes) for buffer in buffers) != body_bytes:
        raise MessageError(f"the buffers of a body of {body_bytes} bytes do not add up to it")
    raw = sum(buffer.raw_nbytes for buffer in buffers)
    if raw > limit:
        raise LimitError(f"buffers of {raw} bytes, decompressed, were announced; {limit} are allowed here")
    for buffer in buffers:
        if buffer.codec == "lz4" and not 0 < buffer.raw_nbytes <= min(LZ4_MAX_BYTES, LZ4_MAX_RATIO * buffer.nbytes):
            raise MessageError(f"{buffer.nbytes} bytes of lz4 cannot become {buffer.raw_nbytes}")


def is_compressed(buffers: Sequence[Buffer]) -> bool:
    """Whether :func:`unpack` has something to decompress, and so belongs in a thread."""
    return any(buffer.codec != "none" for buffer in buffers)


def unpack(buffers: Sequence[Buffer], body: Bytes1d) -> list[Bytes1d]:
    """The buffers of a received body, decompressed: uint8 [raw_nbytes] each, writable, views where possible.

    Raises:
        MessageError: a buffer does not decompress to exactly the size it announced; no more memory was used.
    """
    arrays = []
    start = 0
    for index, buffer in enumerate(buffers):
        piece = body[start : start + buffer.nbytes]
        start += padded(buffer.nbytes)
        arrays.append(piece if buffer.codec == "none" else _decompressed(piece, buffer, index))
    return arrays


def _decompressed(piece: Bytes1d, buffer: Buffer, index: int) -> Bytes1d:
    try:
        raw = lz4.block.decompress(piece.data, uncompressed_size=buffer.raw_nbytes, return_bytearray=True)
    except (lz4.block.LZ4BlockError, ValueError, OverflowError) as error:
        raise MessageError(f"buffer {index} does not decompress: {error}") from None
    if len(raw) != buffer.raw_nbytes:
        raise MessageError(f"buffer {index} decompresses to {len(raw)} bytes; it announced {buffer.raw_nbytes}")
    return np.frombuffer(raw, np.uint8)
