"""Shakespeare by role, for next-character prediction: 80 characters and the one after them (LEAF, Caldas et al. 2018,
1812.01097; McMahan et al. 2017, 1602.05629). Read from the json files that LEAF's scripts make,
`shakespeare/train/*.json` and `shakespeare/test/*.json` (or `shakespeare/data/train`, as they leave them) below a data
root. Nothing is downloaded: LEAF's scripts do that. For any other text see `text-by-speaker`.
"""

from __future__ import annotations

from pathlib import Path

import torch

from fl_core.datasets import Pair, Samples
from fl_core.datasets.leaf import Shard, find_folder, samples
from fl_core.errors import MissingDataError

VOCABULARY = "\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}"
"""LEAF's 80 characters, in its order."""
_NUMBER_OF = {character: number for number, character in enumerate(VOCABULARY)}


def load(*, data_root: Path | None = None) -> Samples:
    """Inputs `[m, 80]` uint8, numbers of characters, labels `[m]` int64, that of the next one; a client is a role.

    Raises:
        MissingDataError: no root has the files, or they are not in the layout.
    """
    return samples(find_folder("shakespeare", data_root), str, str, _tensors, len(VOCABULARY))


def _tensors(shard: Shard[str, str]) -> Pair:
    if {len(y) for y in shard.y} != {1} or len({len(x) for x in shard.x}) != 1:
        raise MissingDataError("shakespeare: x must be pieces of one length, y one character each")
    try:
        inputs = [[_NUMBER_OF[character] for character in x] for x in shard.x]
        targets = [_NUMBER_OF[y] for y in shard.y]
    except KeyError as error:
        raise MissingDataError(
            f"shakespeare: {error.args[0]!r} is none of LEAF's {len(VOCABULARY)} characters"
        ) from None
    return torch.tensor(inputs, dtype=torch.uint8), torch.tensor(targets)
