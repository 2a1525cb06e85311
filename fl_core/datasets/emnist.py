"""EMNIST: handwritten letters and digits, 28x28, in six splits (Cohen, Afshar, Tapson, van Schaik 2017, 1702.05373).

The files of a split (emnist-SPLIT-train-images-idx3-ubyte and so on) may lie below a data root as torchvision keeps
them (EMNIST/raw/), or as .gz or unpacked in EMNIST/, emnist/ or the root itself.
Nothing is downloaded unless the experiment says `download = true`. For the writers as clients see `femnist`.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Literal

from fl_core.datasets import Pair, Samples
from fl_core.datasets.idx import IdxSet, samples
from fl_core.errors import MissingDataError

CLASSES = {"byclass": 62, "bymerge": 47, "balanced": 47, "letters": 26, "digits": 10, "mnist": 10}
_ARCHIVE = "gzip.zip"


def load(
    *,
    data_root: Path | None = None,
    split: Literal["byclass", "bymerge", "balanced", "letters", "digits", "mnist"] = "balanced",
    download: bool = False,
) -> Samples:
    """Inputs `[m, 1, 28, 28]` float32 with mean 0 and deviation 1 over the training set, labels `[m]` int64 from 0 on.

    The files hold pictures with rows and columns exchanged; here letters stand upright. Split "letters" counts from 1
    in its files.

    Args:
        split: which of the six; they differ in size and classes.
        download: fetch the archive of all six (536 MB) into this user's cache, where no root has the split.

    Raises:
        MissingDataError: no root has the split's four files, or they are not what they are called.
    """
    chosen = described(split)

    def fetch(folder: Path) -> None:
        _download(chosen.files, folder)

    first = 1 if split == "letters" else 0
    raw = samples(chosen.find(data_root, fetch if download else None), classes=CLASSES[split] + first)
    assert raw.test is not None
    return Samples(train=_upright(raw.train, first), test=_upright(raw.test, first), classes=CLASSES[split])


def described(split: str) -> IdxSet:
    """The set of one split; each has a cache of its own."""
    files = (
        f"emnist-{split}-train-images-idx3-ubyte",
        f"emnist-{split}-train-labels-idx1-ubyte",
        f"emnist-{split}-test-images-idx3-ubyte",
        f"emnist-{split}-test-labels-idx1-ubyte",
    )
    return IdxSet("EMNIST", f"EMNIST-{split}", "emnist", files)


def _upright(pair: Pair, first: int) -> Pair:
    inputs, labels = pair
    if int(labels.min()) < first:
        raise MissingDataError(f'EMNIST\'s split "letters" has labels from 1 on, these files a {int(labels.min())}')
    return inputs.transpose(2, 3).contiguous(), labels - first


def _download(files: tuple[str, ...], folder: Path) -> None:
    from torchvision.datasets import EMNIST  # seconds to import: only those who download pay
    from torchvision.datasets.utils import download_url

    try:
        download_url(EMNIST.url, str(folder), _ARCHIVE, EMNIST.md5)
    except (RuntimeError, OSError) as error:  # URLError and HTTPError are OSErrors
        raise MissingDataError(f"EMNIST could not be downloaded from {EMNIST.url}: {error}") from None
    with zipfile.ZipFile(folder / _ARCHIVE) as packed:
        for name in files:
            with packed.open(f"gzip/{name}.gz") as source, (folder / f"{name}.gz").open("wb") as target:
                shutil.copyfileobj(source, target)
    (folder / _ARCHIVE).unlink()
