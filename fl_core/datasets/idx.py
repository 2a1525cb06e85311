"""Pictures in LeCun's idx format, as MNIST and its relatives come: four files, unpacked or as .gz.

They hold bytes and no code, so they are read here, at once and from where they lie: torchvision's classes would want a
folder of their own layout, and would `torch.load` an old `processed/training.pt` that lies in it. What is downloaded
is what torchvision names, and is held against its MD5 sums.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fl_core.datasets import Samples
from fl_core.datasets.roots import cache_folder, filled_once, missing, roots
from fl_core.errors import MissingDataError

MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
SIDE = 28


@dataclass(frozen=True)
class IdxSet:
    """One data set.

    Attributes:
        name: as it is written. kind: torchvision's class.
        home: below a data root, where we would put the files.
        files: training pictures and labels, test pictures and labels.
    """

    name: str
    kind: str
    home: str
    files: tuple[str, str, str, str] = MNIST_FILES

    @property
    def folders(self) -> tuple[str, ...]:
        """Below a data root, where people keep them."""
        kind = self.kind.partition("-")[0]
        return (f"{kind}/raw", kind, self.home, ".")

    @property
    def cache(self) -> Path:
        """Where a download is kept."""
        return cache_folder() / "unpacked" / self.kind

    def find(self, data_root: Path | None, fetch: Callable[[Path], None] | None = None) -> list[Path]:
        """The four files, each unpacked or as .gz, all in one folder.

        Args:
            fetch: what downloads them into a folder, where that has been asked for.

        Raises:
            MissingDataError: they are nowhere, and may not or could not be downloaded.
        """
        searched = roots(data_root)
        for folder in [*(root / below for root in searched for below in self.folders), self.cache]:
            found = [_present(folder / name) for name in self.files]
            if all(found):
                return [path for path in found if path is not None]
        if fetch is None:
            packed = [f"{name}.gz" for name in self.files]
            error = missing(self.name, packed, [root / self.home for root in searched])
            raise MissingDataError(f"{error}; or say download = true in [data]")
        folder = filled_once(self.cache, fetch)
        return [folder / f"{name}.gz" for name in self.files]


def samples(files: list[Path], classes: int, moments: tuple[float, float] | None = None) -> Samples:
    """Inputs `[m, 1, 28, 28]` float32 with mean 0 and deviation 1 over the training set, labels `[m]` int64.

    Args:
        files: as `IdxSet.find` gives them.
        moments: mean and deviation of the training pixels in 0..1, where they are known.

    Raises:
        MissingDataError: a file is not what it is called.
    """
    pictures, labels = _pair(files[0], files[1], classes)
    test_pictures, test_labels = _pair(files[2], files[3], classes)
    mean, deviation = moments or _moments(pictures)

    def normalised(raw: Tensor) -> Tensor:
        return raw.to(torch.float32).div_(255).sub_(mean).div_(deviation).unsqueeze(1)

    return Samples(train=(normalised(pictures), labels), test=(normalised(test_pictures), test_labels), classes=classes)


def fetch_files(kind: str, folder: Path) -> None:
    """Download the four .gz files of a torchvision class into the folder.

    Raises:
        MissingDataError: no mirror has one of them with the MD5 sum it should have.
    """
    from torchvision import datasets  # seconds to import: only those who download pay
    from torchvision.datasets.utils import download_url

    described = getattr(datasets, kind)
    for name, md5 in described.resources:
        failures = []
        for mirror in described.mirrors:
            try:
                download_url(f"{mirror}{name}", str(folder), name, md5)
                break
            except (RuntimeError, OSError) as error:  # URLError and HTTPError are OSErrors
                failures.append(f"{mirror}{name}: {error}")
        else:
            raise MissingDataError(f"{kind} could not be downloaded: {'; '.join(failures)}")


def _present(path: Path) -> Path | None:
    return next((each for each in (path, path.with_name(f"{path.name}.gz")) if each.is_file()), None)


def _pair(pictures: Path, labels: Path, classes: int) -> tuple[Tensor, Tensor]:
    inputs, targets = _read(pictures, dimensions=3), _read(labels, dimensions=1).to(torch.int64)
    if inputs.shape[1:] != (SIDE, SIDE):
        raise MissingDataError(f"{pictures} is damaged: pictures of {list(inputs.shape[1:])}, not {SIDE}x{SIDE} pixels")
    if len(inputs) != len(targets) or len(inputs) == 0:
        raise MissingDataError(f"{labels} is damaged: {len(targets)} labels for {len(inputs)} pictures")
    if int(targets.max()) >= classes:
        raise MissingDataError(f"{labels} is damaged: a label {int(targets.max())}, where {classes - 1} is the last")
    return inputs, targets


def _read(path: Path, dimensions: int) -> Tensor:
    """The bytes of one file, in their shape: 0, 0, 8 (unsigned bytes), the number of dimensions, sizes, values."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile) as error:
        raise MissingDataError(f"{path} is damaged: {error}; put a whole copy there") from None
    start = 4 + 4 * dimensions
    if len(content) < start or content[:4] != bytes([0, 0, 8, dimensions]):
        raise MissingDataError(f"{path} is damaged: it does not begin as an idx file does; put a whole copy there")
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    values = np.frombuffer(content, np.uint8, offset=start)
    if len(values) != int(np.prod(shape)):
        raise MissingDataError(f"{path} is damaged: {len(values)} bytes for {shape}; put a whole copy there")
    return torch.from_numpy(values.reshape(shape).copy())


def _moments(pictures: Tensor) -> tuple[float, float]:
    """Mean and deviation of pixels in 0..1, from counts of whole numbers: the same on every machine."""
    counts = torch.bincount(pictures.flatten(), minlength=256)
    values = torch.arange(256)
    total = int(counts.sum())
    mean = int((counts * values).sum()) / total
    square = int((counts * values * values).sum()) / total
    return mean / 255, max(square - mean**2, 1.0) ** 0.5 / 255


__all__ = ["MNIST_FILES", "IdxSet", "fetch_files", "samples"]
