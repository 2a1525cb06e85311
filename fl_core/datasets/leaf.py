"""LEAF's json layout (Caldas et al. 2018, 1812.01097): `train/*.json` and `test/*.json` in one folder, in each file
`users` and, for each of them, lists `x` and `y`. Every user is a client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
import torch
from msgspec import Struct
from torch import Tensor

from fl_core.datasets import Pair, Samples
from fl_core.datasets.roots import missing, roots
from fl_core.errors import MissingDataError

X = TypeVar("X")
Y = TypeVar("Y")


class Shard(Struct, Generic[X, Y]):
    """What one user has: inputs and targets, one each a sample."""

    x: list[X]
    y: list[Y]


class _File(Struct, Generic[X, Y]):
    users: list[str]
    user_data: dict[str, Shard[X, Y]]


def find_folder(name: str, data_root: Path | None) -> Path:
    """The folder with `train/` of one of LEAF's sets: NAME/, NAME/data/ (as LEAF's scripts leave it), or leaf/NAME/.

    Raises:
        MissingDataError: no root has one.
    """
    searched = roots(data_root)
    for root in searched:
        for below in (name, f"{name}/data", f"leaf/{name}", f"leaf/{name}/data", f"leaf/data/{name}/data"):
            if any((root / below / "train").glob("*.json")):
                return root / below
    raise missing(name, [f"{name}/train/*.json and {name}/test/*.json, as LEAF makes them,"], searched)


def samples(folder: Path, x: type[X], y: type[Y], tensors: Callable[[Shard[X, Y]], Pair], classes: int) -> Samples:
    """All users' samples, with `ids` that number the users in the order of the files; the test set is everyone's.

    Args:
        folder: with `train/`, and `test/` or not.
        x, y: what a sample's input and target are in the files.
        tensors: a user's shard as inputs and targets, one row a sample.

    Raises:
        MissingDataError: a file is not in the layout.
    """
    numbers: dict[str, int] = {}
    pairs, ids = [], []
    for user, shard in _shards(folder / "train", _File[x, y]):  # type: ignore[valid-type]
        pair = tensors(shard)
        pairs.append(pair)
        ids.append(torch.full((len(pair[1]),), numbers.setdefault(user, len(numbers)), dtype=torch.int64))
    tests = [tensors(shard) for _, shard in _shards(folder / "test", _File[x, y])]  # type: ignore[valid-type]
    return Samples(train=_joined(pairs), test=_joined(tests) if tests else None, classes=classes, ids=torch.cat(ids))


def _shards(folder: Path, kind: type[_File[X, Y]]) -> Iterator[tuple[str, Shard[X, Y]]]:
    """Users and what they have, those with nothing left out, file by file."""
    for path in sorted(folder.glob("*.json")):
        try:
            file = msgspec.json.decode(path.read_bytes(), type=kind)
        except msgspec.DecodeError as error:
            raise MissingDataError(f"{path} is not in LEAF's layout: {error}") from None
        for user in file.users:
            shard = file.user_data.get(user)
            if shard is None or len(shard.x) != len(shard.y):
                raise MissingDataError(f"{path} is not in LEAF's layout: user {user!r} has no x and y of one length")
            if shard.x:
                yield user, shard


def _joined(pairs: list[Pair]) -> Pair:
    inputs: list[Tensor] = [pair[0] for pair in pairs]
    return torch.cat(inputs), torch.cat([pair[1] for pair in pairs])


__all__ = ["Shard", "find_folder", "samples"]
