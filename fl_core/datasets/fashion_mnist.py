"""Fashion-MNIST: 60,000 + 10,000 pictures of clothes, 28x28, 10 classes (Xiao et al. 2017, 1708.07747).

Read by torchvision.datasets.FashionMNIST, which never downloads here. The four files may lie below a data
root as torchvision keeps them (FashionMNIST/raw/), or as .gz or unpacked in FashionMNIST/, fashion-mnist/ or
the root itself: Debian's package dataset-fashion-mnist puts them in /usr/share/datasets/fashion-mnist.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from fl_core.datasets import Samples
from fl_core.datasets.roots import cache_folder, missing, roots
from fl_core.errors import MissingDataError

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_LAYOUT = Path("FashionMNIST") / "raw"
_FOLDERS = (_LAYOUT, Path("FashionMNIST"), Path("fashion-mnist"), Path())
_MEAN, _DEVIATION = 0.2860, 0.3530
"""Of the training pixels in 0..1."""


def load(*, data_root: Path | None = None) -> Samples:
    """Inputs `[m, 1, 28, 28]` float32 with mean 0 and deviation 1 over the training set, labels `[m]` int64.

    Raises:
        MissingDataError: no root has the four files, or they are not what they are called.
    """
    folder = _torchvision_root(data_root)
    return Samples(train=_pair(folder, train=True), test=_pair(folder, train=False), classes=10)


def _pair(folder: Path, *, train: bool) -> tuple[Tensor, Tensor]:
    from torchvision.datasets import FashionMNIST  # seconds to import: only those who use it pay

    try:
        pictures = FashionMNIST(str(folder), train=train, download=False)
    except (RuntimeError, ValueError, AssertionError, OSError) as error:
        raise MissingDataError(f"the files in {folder / _LAYOUT} are not Fashion-MNIST's: {error}") from None
    if pictures.data.shape[1:] != (28, 28) or len(pictures.data) != len(pictures.targets):
        raise MissingDataError(f"the files in {folder / _LAYOUT} are not Fashion-MNIST's: wrong shapes")
    inputs = pictures.data.to(torch.float32).div_(255).sub_(_MEAN).div_(_DEVIATION)
    return inputs.unsqueeze(1), pictures.targets.to(torch.int64)


def _torchvision_root(data_root: Path | None) -> Path:
    """A folder with FashionMNIST/raw/ complete and unpacked: a root that has it so, or our cache."""
    searched = roots(data_root)
    for root in searched:
        if all((root / _LAYOUT / name).is_file() for name in FILES):
            return root
        for folder in _FOLDERS:
            packed = [_present(root / folder, name) for name in FILES]
            found = [path for path in packed if path is not None]
            if len(found) == len(FILES):
                return _unpacked(found)
    raise missing("Fashion-MNIST", [f"{name}.gz" for name in FILES], [root / "fashion-mnist" for root in searched])


def _present(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _unpacked(files: list[Path]) -> Path:
    """The files in torchvision's layout in this user's cache, put there whole or not at all.

    The folder's name holds their sizes and times: other files get another folder. Several processes may do
    this at once: each unpacks for itself, the first to rename wins, the others use what it made.
    """
    stats = [path.stat() for path in files]
    stamp = "-".join(f"{s.st_size:x}.{s.st_mtime_ns:x}" for s in stats)
    home = cache_folder() / "unpacked"
    target = home / f"fashion-mnist-{_short(str(files[0].parent) + stamp)}"
    if target.is_dir():
        return target
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=".unpacking-") as private:
        raw = Path(private) / "set" / _LAYOUT
        raw.mkdir(parents=True)
        for name, path in zip(FILES, files, strict=True):
            _unpack(path, raw / name)
        try:
            (Path(private) / "set").rename(target)
        except OSError:
            if not target.is_dir():
                raise
    return target


def _unpack(source: Path, target: Path) -> None:
    try:
        with target.open("wb") as file:
            with gzip.open(source) if source.suffix == ".gz" else source.open("rb") as packed:
                shutil.copyfileobj(packed, file)
            file.flush()
            os.fsync(file.fileno())
    except (EOFError, gzip.BadGzipFile) as error:
        raise MissingDataError(f"{source} is damaged: {error}; put a whole copy there") from None


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
