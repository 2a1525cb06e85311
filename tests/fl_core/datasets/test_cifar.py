"""CIFAR10 and CIFAR100, from tiny files of the same layout whose MD5 sums stand in for the published ones."""

from __future__ import annotations

import hashlib
import pickle  # the layout of the sets is the original's, which pickles; torchvision checks the sums before it reads
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets

from fl_core.datasets import Samples, cifar10, cifar100
from fl_core.datasets.cifar import CifarSet
from fl_core.datasets.roots import SYSTEM_FOLDERS, cache_folder
from fl_core.errors import MissingDataError

pytestmark = pytest.mark.usefixtures("alone")
COUNT = 3
"""Pictures in each file."""


@dataclass(frozen=True)
class Published:
    """A set whose tiny files torchvision takes for the published ones.

    Attributes:
        kind: torchvision's class. files: content by name, those of the training set first.
    """

    described: CifarSet
    kind: Any
    files: dict[str, bytes]

    def load(self, root: Path | None = None, **options: Any) -> Samples:
        """Our loader of it."""
        module = {"CIFAR10": cifar10, "CIFAR100": cifar100}[self.described.name]
        data: Samples = module.load(data_root=root, **options)
        return data

    def unpacked(self, folder: Path, **changed: bytes) -> None:
        """Put the files into the published folder below this one."""
        (folder / self.described.folder).mkdir(parents=True)
        for name, content in {**self.files, **changed}.items():
            (folder / self.described.folder / name).write_bytes(content)

    def packed(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Put the archive there, and let torchvision take it for the published one."""
        self.unpacked(folder.parent / "packing")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.described.archive
        with tarfile.open(path, "w:gz") as archive:
            archive.add(folder.parent / "packing" / self.described.folder, self.described.folder)
        monkeypatch.setattr(self.kind, "tgz_md5", hashlib.md5(path.read_bytes()).hexdigest())
        return path

    @property
    def train_files(self) -> list[str]:
        """Names of the training set's files."""
        return [name for name, _ in self.kind.train_list]


def contents(names: list[str], key: str, classes: int) -> dict[str, bytes]:
    """The files of pictures, by name."""
    source = np.random.Generator(np.random.PCG64(1))
    files = {}
    for name in names:
        pixels = source.integers(0, 256, (COUNT, 3072), dtype=np.uint8)
        files[name] = pickle.dumps({"data": pixels, key: source.integers(0, classes, COUNT).tolist()})
    return files


@pytest.fixture(params=["CIFAR10", "CIFAR100"])
def published(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Published:
    """One of the two sets, in tiny."""
    described = {"CIFAR10": cifar10.SET, "CIFAR100": cifar100.SET}[request.param]
    kind = getattr(torchvision.datasets, request.param)
    train, test = ([name for name, _ in listed] for listed in (kind.train_list, kind.test_list))
    key = "labels" if request.param == "CIFAR10" else "fine_labels"
    files = contents([*train, *test], key, described.classes)
    files[kind.meta["filename"]] = pickle.dumps({kind.meta["key"]: [str(i) for i in range(described.classes)]})
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(kind, "train_list", [[name, sums[name]] for name in train])
    monkeypatch.setattr(kind, "test_list", [[name, sums[name]] for name in test])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": sums[kind.meta["filename"]]})
    return Published(described, kind, files)


@pytest.mark.parametrize("place", ["", "{name}", "cifar{number}", "cifar-{number}"])
def test_the_folder_is_found_where_people_keep_it(tmp_path: Path, place: str, published: Published) -> None:
    """The tensors are what the files hold: pictures in order, channels first, each channel normalised."""
    described = published.described
    below = place.format(name=described.name, number=described.classes)
    published.unpacked(tmp_path / "root" / below)
    data = published.load(tmp_path / "root")
    batches = [pickle.loads(published.files[name]) for name in published.train_files]  # noqa: S301  (made above)
    pixels = torch.from_numpy(np.concatenate([batch["data"] for batch in batches])).view(-1, 3, 32, 32)
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (described.mean, described.deviation))
    inputs, labels = data.train
    assert data.test is not None
    assert (inputs.dtype, labels.dtype, data.classes) == (torch.float32, torch.int64, described.classes)
    assert torch.equal(((inputs * deviation + mean) * 255).round().to(torch.uint8), pixels)
    key = "labels" if "labels" in batches[0] else "fine_labels"
    assert labels.tolist() == [label for batch in batches for label in batch[key]]
    assert data.test[0].shape == (COUNT, 3, 32, 32)


def test_the_archive_is_unpacked_once(tmp_path: Path, published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes unpack it at once: one wins, all read it whole, nothing is left over but it."""
    archive = published.packed(tmp_path / "root", monkeypatch)
    with ThreadPoolExecutor(4) as pool:
        sizes = list(pool.map(lambda _: len(published.load(tmp_path / "root").train[0]), range(4)))
    whole = len(published.train_files) * COUNT
    assert sizes == [whole] * 4
    assert [path.name for path in (cache_folder() / "unpacked").iterdir()] == [published.described.name.lower()]
    archive.unlink()
    assert len(published.load().train[0]) == whole


def test_a_changed_file_is_not_read(tmp_path: Path, published: Published) -> None:
    """A file whose MD5 sum is not the published one is refused before anything in it is run."""
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return ran.write_text, ("it ran",)

    published.unpacked(tmp_path, **{published.train_files[-1]: pickle.dumps(Evil())})
    with pytest.raises(MissingDataError, match=r"are not CIFAR100?'s \(their MD5 sums differ\)"):
        published.load(tmp_path)
    assert not ran.exists()


def test_a_cut_archive_is_one_line_and_leaves_no_cache(
    tmp_path: Path, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half download under the archive's name is named, and never kept as the set."""
    archive = published.packed(tmp_path / "root", monkeypatch)
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(MissingDataError, match=r"cifar-100?-python\.tar\.gz is not CIFAR100?'s"):
        published.load(tmp_path / "root")
    assert not list((cache_folder() / "unpacked").iterdir())


@pytest.mark.net
def test_nothing_is_fetched_unless_asked_for(
    tmp_path: Path, published: Published, monkeypatch: pytest.MonkeyPatch, served: tuple[Path, str]
) -> None:
    """`download = true` fetches the archive into the cache, once; without it, one line says what to do."""
    name, whole = published.described.name, len(published.train_files) * COUNT
    archive = published.packed(served[0], monkeypatch)
    monkeypatch.setattr(published.kind, "url", served[1] + published.described.archive)
    with pytest.raises(MissingDataError) as caught:
        published.load(tmp_path / "nothing")
    line = str(caught.value)
    assert line.startswith(f"the data set {name} is not on this machine: put {archive.name} in one of ")
    assert "download = true" in line
    assert "\n" not in line
    assert len(published.load(tmp_path / "nothing", download=True).train[0]) == whole
    archive.unlink()
    assert len(published.load().train[0]) == whole
    assert not list((cache_folder() / "unpacked").rglob("*.gz"))


@pytest.mark.net
def test_a_download_that_fails_is_one_line(
    published: Published, monkeypatch: pytest.MonkeyPatch, served: tuple[Path, str]
) -> None:
    """An address with nothing at it says so, and nothing is left that a later run would take for the set."""
    monkeypatch.setattr(published.kind, "url", served[1] + "nothing")
    with pytest.raises(MissingDataError, match=r"CIFAR100? could not be downloaded from http://127\.0\.0\.1:.*404"):
        published.load(download=True)
    assert not list((cache_folder() / "unpacked").iterdir())


@pytest.mark.slow
@pytest.mark.skipif(
    not any((r / below / cifar10.SET.folder).is_dir() for r in SYSTEM_FOLDERS for below in cifar10.SET.folders),
    reason="CIFAR10 is not installed in a system folder",
)
def test_the_real_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """50,000 and 10,000 pictures, 5,000 and 1,000 a class, each channel normalised over the training set."""
    monkeypatch.setattr("fl_core.datasets.roots.SYSTEM_FOLDERS", SYSTEM_FOLDERS)
    data = cifar10.load()
    assert data.test is not None
    assert torch.bincount(data.train[1]).tolist() == [5000] * 10
    assert torch.bincount(data.test[1]).tolist() == [1000] * 10
    assert float(data.train[0].mean(dim=(0, 2, 3)).abs().max()) < 1e-3
    assert float((data.train[0].std(dim=(0, 2, 3)) - 1).abs().max()) < 1e-3
