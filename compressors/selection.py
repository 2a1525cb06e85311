"""The K largest magnitudes of a vector, exactly, equals by lowest index, the same on every machine.

Magnitudes are compared as the integers their bits are (sign cleared), which orders finite floats. A long
vector is ranked only near the threshold: a sample brackets the K-th magnitude, one pass keeps what may matter,
and the exact ranking runs on the few between the brackets.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from compressors.noise import BLOCK
from compressors.patterns import Indices

_INTEGER = {8: torch.int64, 4: torch.int32, 2: torch.int16}
_LONG = 1 << 17
_SAMPLE = 1 << 15

Magnitudes = npt.NDArray[np.signedinteger[Any]]


def largest(x: Tensor, k: int) -> Tensor:
    """Places of the k largest |x_j| of every row of `x` `[G, n]`, ascending: int64 `[G, k]`, 1 <= k <= n."""
    bits = x.contiguous().view(_INTEGER[x.dtype.itemsize])
    if x.device.type != "cpu":
        return _on_device(bits & torch.iinfo(bits.dtype).max, k)
    rows = bits.numpy()
    if x.shape[1] <= _LONG:
        return torch.from_numpy(_short(rows & np.iinfo(rows.dtype).max, k))
    return torch.from_numpy(np.stack([_long(row, k) for row in rows]))


def _on_device(magnitudes: Tensor, k: int) -> Tensor:
    threshold = magnitudes.topk(k, dim=1).values[:, -1:]
    above, ties = magnitudes > threshold, magnitudes == threshold
    room = k - above.sum(dim=1, keepdim=True)
    kept = above | (ties & (ties.cumsum(dim=1) <= room))
    return kept.nonzero()[:, 1].reshape(magnitudes.shape[0], k)


def _short(magnitudes: Magnitudes, k: int) -> Indices:
    """By partition of each row of `[G, n]`."""
    n = magnitudes.shape[1]
    threshold = np.partition(magnitudes, n - k, axis=1)[:, n - k, None]
    kept = magnitudes >= threshold
    surplus = kept.sum(axis=1) - k
    for row in np.flatnonzero(surplus):  # more equals at the threshold than room: the last ones go
        ties = np.flatnonzero(magnitudes[row] == threshold[row])
        kept[row, ties[ties.size - surplus[row] :]] = False
    places: Indices = np.flatnonzero(kept).reshape(-1, k) % n
    return places


def _long(row: Magnitudes, k: int) -> Indices:
    """By a bracket around the threshold of one row `[n]`."""
    threshold = _threshold(row, k)
    mask = np.iinfo(row.dtype).max
    kept = np.empty(row.size, np.bool_)
    for left in range(0, row.size, BLOCK):
        np.greater_equal(row[left : left + BLOCK] & mask, threshold, out=kept[left : left + BLOCK])
    places: Indices = np.flatnonzero(kept)
    surplus = places.size - k
    if surplus:  # more equals at the threshold than room: the last ones go
        ties = np.flatnonzero(row[places] & mask == threshold)
        places = np.delete(places, ties[ties.size - surplus :])
    return places


def _threshold(row: Magnitudes, k: int) -> int:
    """The k-th largest magnitude of `[n]`."""
    low, high = _bracket(row, k)
    mask = np.iinfo(row.dtype).max
    above, found = 0, []
    for left in range(0, row.size, BLOCK):
        magnitudes = row[left : left + BLOCK] & mask
        over = magnitudes > high
        above += int(np.count_nonzero(over))
        found.append(magnitudes[(magnitudes >= low) & ~over])
    between = np.concatenate(found)
    rank = between.size - (k - above)
    if above >= k or rank < 0:  # the sample misled: rank everything
        between, rank = row & mask, row.size - k
    return int(np.partition(between, rank)[rank])


def _bracket(row: Magnitudes, k: int) -> tuple[int, int]:
    """Magnitudes a little below and a little above the k-th largest, judged from evenly spaced coordinates."""
    step = row.size // _SAMPLE
    sample = np.sort(row[::step] & np.iinfo(row.dtype).max)[::-1]
    rank = k / row.size * sample.size
    margin = 5 * math.sqrt(rank) + 5
    low = int(sample[math.ceil(rank + margin)]) if rank + margin < sample.size - 1 else 0
    high = int(sample[math.floor(rank - margin)]) if rank > margin else int(np.iinfo(row.dtype).max)
    return low, high
