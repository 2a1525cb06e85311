"""What CIFAR10 and CIFAR100 share: where their files lie, and how they become tensors.

The published files are pickles. We unpickle nothing: torchvision's classes read them, and read no file before its MD5
sum is that of the published one, so what is unpickled is known, byte for byte. (The binary version that the same page
offers needs no unpickling, but is not what people have on their disks.)
"""

from __future__ import annotations

import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fl_core.datasets import Pair, Samples
from fl_core.datasets.roots import cache_folder, filled_once, missing, roots
from fl_core.errors import MissingDataError

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class CifarSet:
    """One of the two.

    Attributes:
        name: torchvision's class. folder, archive: the published ones.
        mean, deviation: of the training pixels in 0..1, a channel each.
    """

    name: str
    classes: int
    folder: str
    archive: str
    mean: RGB
    deviation: RGB

    @property
    def folders(self) -> tuple[str, ...]:
        """Below a data root, where people keep the folder or the archive."""
        number = self.name.removeprefix("CIFAR")
        return (".", self.name, f"cifar{number}", f"cifar-{number}")

    def load(self, data_root: Path | None, download: bool) -> Samples:
        """Inputs `[m, 3, 32, 32]` float32, labels `[m]` int64; each channel has mean 0 and deviation 1 in training.

        Raises:
            MissingDataError: no root has it and none may be fetched, or its files are not what they are called.
        """
        place = self._place(data_root, download)
        return Samples(train=self._pair(place, True), test=self._pair(place, False), classes=self.classes)

    def _pair(self, place: Path, train: bool) -> Pair:
        try:
            pictures = self._kind()(str(place), train=train, download=False)
        except (RuntimeError, OSError) as error:
            raise MissingDataError(
                f"the files in {place / self.folder} are not {self.name}'s (their MD5 sums differ): {error}; "
                "put a whole copy there"
            ) from None
        inputs = torch.from_numpy(pictures.data).permute(0, 3, 1, 2).to(torch.float32).div_(255)
        mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.deviation))
        return inputs.sub_(mean).div_(deviation).contiguous(), torch.tensor(pictures.targets, dtype=torch.int64)

    def _kind(self) -> Any:
        from torchvision import datasets  # seconds to import: only those who use it pay

        return getattr(datasets, self.name)

    def _place(self, data_root: Path | None, download: bool) -> Path:
        """A folder with the published folder in it: in a root, or unpacked or downloaded into our cache."""
        searched = roots(data_root)
        places = [root / below for root in searched for below in self.folders]
        kept = cache_folder() / "unpacked" / self.name.lower()
        for place in [*places, kept]:
            if (place / self.folder).is_dir():
                return place
        archive = next((place / self.archive for place in places if (place / self.archive).is_file()), None)
        if archive is not None:
            return filled_once(kept, lambda folder: self._unpack(archive, folder))
        if download:
            return filled_once(kept, self._download)
        error = missing(self.name, [self.archive], searched)
        raise MissingDataError(
            f'{error}; or say download = true in [data], or try name = "cifar-like", which is made up'
        )

    def _unpack(self, archive: Path, folder: Path) -> None:
        from torchvision.datasets.utils import check_integrity

        kind = self._kind()
        if not check_integrity(str(archive), kind.tgz_md5):
            raise MissingDataError(f"{archive} is not {self.name}'s (its MD5 sum differs); put a whole copy there")
        (folder / self.folder).mkdir()
        with tarfile.open(archive) as packed:
            for name in [*(name for name, _ in (*kind.train_list, *kind.test_list)), kind.meta["filename"]]:
                source = packed.extractfile(f"{self.folder}/{name}")
                assert source is not None  # the archive is the published one
                with source, (folder / self.folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target)

    def _download(self, folder: Path) -> None:
        from torchvision.datasets.utils import download_url

        kind = self._kind()
        try:
            download_url(kind.url, str(folder), self.archive, kind.tgz_md5)
        except (RuntimeError, OSError) as error:  # URLError and HTTPError are OSErrors
            raise MissingDataError(f"{self.name} could not be downloaded from {kind.url}: {error}") from None
        self._unpack(folder / self.archive, folder)
        (folder / self.archive).unlink()


__all__ = ["CifarSet"]
