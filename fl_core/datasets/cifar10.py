"""CIFAR10: 50,000 + 10,000 pictures of 32x32 pixels in colour, 10 classes (Krizhevsky 2009, "Learning multiple layers
of features from tiny images").

Read by torchvision.datasets.CIFAR10, which reads no file before its MD5 sum is that of the published one. The folder
`cifar-10-batches-py`, or the archive `cifar-10-python.tar.gz` as it is downloaded, may lie in a data root, or in
CIFAR10/, cifar10/ or cifar-10/ below one. Nothing is downloaded unless the experiment says `download = true`.
"""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fl_core.datasets import Pair, Samples
from fl_core.datasets.roots import cache_folder, missing, roots
from fl_core.errors import MissingDataError

FOLDER, ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"
_BELOW = (Path(), Path("CIFAR10"), Path("cifar10"), Path("cifar-10"))
_MEAN, _DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Of the training pixels in 0..1, a channel each."""


def load(*, data_root: Path | None = None, download: bool = False) -> Samples:
    """Inputs `[m, 3, 32, 32]` float32, labels `[m]` int64; each channel has mean 0, deviation 1 over the training set.

    Args:
        download: fetch the archive (170 MB) from its author's page into this user's cache, where no root has it.

    Raises:
        MissingDataError: no root has it and none may be fetched, or its files are not what they are called.
    """
    folder = _torchvision_root(data_root, download)
    return Samples(train=_pair(folder, train=True), test=_pair(folder, train=False), classes=10)


def _pair(folder: Path, *, train: bool) -> Pair:
    try:
        pictures = _torchvision()(str(folder), train=train, download=False)
    except (RuntimeError, OSError) as error:
        raise MissingDataError(
            f"the files in {folder / FOLDER} are not CIFAR10's (their MD5 sums differ): {error}; put a whole copy there"
        ) from None
    inputs = torch.from_numpy(pictures.data).permute(0, 3, 1, 2).to(torch.float32).div_(255)
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (_MEAN, _DEVIATION))
    return inputs.sub_(mean).div_(deviation).contiguous(), torch.tensor(pictures.targets, dtype=torch.int64)


def _torchvision() -> Any:
    from torchvision.datasets import CIFAR10  # seconds to import: only those who use it pay

    return CIFAR10


def _torchvision_root(data_root: Path | None, download: bool) -> Path:
    """A folder with cifar-10-batches-py/: in a root, or unpacked or downloaded into our cache."""
    searched = roots(data_root)
    places = [root / below for root in searched for below in _BELOW]
    for place in places:
        if (place / FOLDER).is_dir():
            return place
    kept = cache_folder() / "unpacked" / "cifar10"
    if (kept / FOLDER).is_dir():
        return kept
    archive = next((place / ARCHIVE for place in places if (place / ARCHIVE).is_file()), None)
    if archive is not None:
        return _made(kept, lambda folder: _unpack(archive, folder))
    if download:
        return _made(kept, _download)
    error = missing("CIFAR10", [ARCHIVE], searched)
    raise MissingDataError(f'{error}; or say download = true in [data], or try name = "cifar-like", which is made up')


def _made(target: Path, fill: Callable[[Path], None]) -> Path:
    """The target, filled whole or not at all: processes that do it at once each fill their own, and the first wins."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unpacking-") as private:
        folder = Path(private) / "set"
        folder.mkdir()
        fill(folder)
        try:
            folder.rename(target)
        except OSError:
            if not (target / FOLDER).is_dir():
                raise
    return target


def _unpack(archive: Path, folder: Path) -> None:
    from torchvision.datasets.utils import check_integrity

    kind = _torchvision()
    if not check_integrity(str(archive), kind.tgz_md5):
        raise MissingDataError(f"{archive} is not CIFAR10's (its MD5 sum differs); put a whole copy there")
    (folder / FOLDER).mkdir()
    with tarfile.open(archive) as packed:
        for name in [*(name for name, _ in (*kind.train_list, *kind.test_list)), kind.meta["filename"]]:
            source = packed.extractfile(f"{FOLDER}/{name}")
            assert source is not None  # the archive is the published one
            with source, (folder / FOLDER / name).open("wb") as target:
                shutil.copyfileobj(source, target)


def _download(folder: Path) -> None:
    from torchvision.datasets.utils import download_url

    kind = _torchvision()
    try:
        download_url(kind.url, str(folder), ARCHIVE, kind.tgz_md5)
    except (RuntimeError, OSError) as error:  # URLError and HTTPError are OSErrors
        raise MissingDataError(f"CIFAR10 could not be downloaded from {kind.url}: {error}") from None
    _unpack(folder / ARCHIVE, folder)
    (folder / ARCHIVE).unlink()


__all__ = ["ARCHIVE", "FOLDER", "load"]
