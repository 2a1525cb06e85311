"""Small integers to bytes and back: fields of a fixed width, and ternary digits five to a byte.

A field is cut into planes of 8, 4, 2 and 1 bits, and each plane is packed by itself, a whole section of the
vector beside the next, so that every step is one contiguous vector operation. A stack of n fields of `width`
bits takes `width * n` bits a row, plus less than a byte a plane.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from compressors.compressor import Bytes, PayloadError

Codes = npt.NDArray[Any]  # unsigned integers [G, n]

_TRITS = 5  # 3^5 = 243 <= 256


def code_dtype(width: int) -> type[np.uint8] | type[np.uint16] | type[np.uint32]:
    """The smallest unsigned integer type that holds `width` bits (at most 32)."""
    if width <= 8:
        return np.uint8
    return np.uint16 if width <= 16 else np.uint32


def _planes(width: int) -> list[int]:
    """Plane widths, lowest bits first: 9 -> [8, 1], 6 -> [4, 2]."""
    return [8] * (width // 8) + [bits for bits in (4, 2, 1) if width % 8 & bits]


def packed_bytes(count: int, width: int) -> int:
    """Bytes that `count` fields of `width` bits take."""
    return sum(-(-count * plane // 8) for plane in _planes(width))


def pack(codes: Codes, width: int) -> Bytes:
    """`[G, n]` unsigned codes below 2^width -> uint8 `[G, packed_bytes(n, width)]`."""
    out = np.empty((codes.shape[0], packed_bytes(codes.shape[1], width)), np.uint8)
    shift = left = 0
    for plane in _planes(width):
        right = left + -(-codes.shape[1] * plane // 8)
        _write_plane(codes, shift, plane, out[:, left:right])
        left, shift = right, shift + plane
    return out


def unpack(raw: Bytes, count: int, width: int) -> Codes:
    """uint8 `[G, packed_bytes(n, width)]` -> `[G, n]` codes of the smallest unsigned type for `width`."""
    kind = code_dtype(width)
    codes = np.zeros((raw.shape[0], count), kind)
    shift = left = 0
    for plane in _planes(width):
        right = left + -(-count * plane // 8)
        _read_plane(raw[:, left:right], shift, plane, codes)
        left, shift = right, shift + plane
    return codes


def _write_plane(codes: Codes, shift: int, plane: int, out: Bytes) -> None:
    """Put bits [shift, shift + plane) of every code into `out`, 8/plane sections of the row side by side."""
    sections, width = 8 // plane, out.shape[1]
    mask = np.uint8((1 << plane) - 1)
    if plane == 1:
        out[...] = np.packbits((codes >> shift).astype(np.uint8) & 1, axis=1, bitorder="little")
        return
    for section in range(sections):
        part = codes[:, section * width : (section + 1) * width]
        bits = (part >> shift if shift else part).astype(np.uint8, copy=False)
        if section == 0:
            np.bitwise_and(bits, mask, out=out)
        else:
            out[:, : part.shape[1]] |= (bits & mask) << np.uint8(section * plane)


def _read_plane(raw: Bytes, shift: int, plane: int, codes: Codes) -> None:
    """Add bits [shift, shift + plane) of every code from `raw`; the inverse of `_write_plane`."""
    sections, width = 8 // plane, raw.shape[1]
    mask = np.uint8((1 << plane) - 1)
    if plane == 1:
        bits = np.unpackbits(raw, axis=1, count=codes.shape[1], bitorder="little")
        codes |= bits.astype(codes.dtype, copy=False) << shift
        return
    for section in range(sections):
        part = codes[:, section * width : (section + 1) * width]
        bits = (raw[:, : part.shape[1]] >> np.uint8(section * plane)) & mask
        part |= bits.astype(codes.dtype, copy=False) << shift


def trit_bytes(count: int) -> int:
    """Bytes that `count` ternary digits take: five to a byte, 1.6 bits each."""
    return -(-count // _TRITS)


def pack_trits(trits: Bytes) -> Bytes:
    """`[G, n]` digits 0, 1, 2 -> uint8 `[G, trit_bytes(n)]`; a row's fifths lie on top of each other."""
    width = trit_bytes(trits.shape[1])
    out = np.zeros((trits.shape[0], width), np.uint8)
    for section in reversed(range(_TRITS)):
        part = trits[:, section * width : (section + 1) * width]
        out *= np.uint8(3)
        out[:, : part.shape[1]] += part
    return out


def unpack_trits(raw: Bytes, count: int) -> Bytes:
    """uint8 `[G, trit_bytes(n)]` -> `[G, n]` digits. Raises PayloadError for a byte above 242."""
    if raw.size and int(raw.max()) >= 3**_TRITS:
        raise PayloadError("a byte of five ternary digits is at most 242; this payload holds a larger one")
    trits = np.empty((raw.shape[0], count), np.uint8)
    rest, width = raw, raw.shape[1]
    for section in range(_TRITS):
        part = trits[:, section * width : (section + 1) * width]
        part[...] = (rest % 3)[:, : part.shape[1]]
        rest = (rest // 3).astype(np.uint8)
    return trits
