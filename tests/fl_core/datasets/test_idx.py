"""MNIST, Fashion-MNIST and EMNIST, from tiny files of the same layout: found, read, refused, downloaded."""

from __future__ import annotations

import gzip
import hashlib
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.datasets

from fl_core import plugins
from fl_core.datasets import Samples, emnist, fashion_mnist, mnist
from fl_core.datasets.idx import IdxSet
from fl_core.datasets.roots import cache_folder
from fl_core.errors import MissingDataError

pytestmark = pytest.mark.usefixtures("alone")
SETS: dict[str, IdxSet] = {
    "mnist": mnist.SET,
    "fashion-mnist": fashion_mnist.SET,
    "emnist": emnist.described("balanced"),
}
MOMENTS = {"mnist": (0.1307, 0.3081), "fashion-mnist": (0.2860, 0.3530)}
Tensors = dict[str, torch.Tensor]


def idx(values: torch.Tensor) -> bytes:
    """An idx file of unsigned bytes: magic 0x08 and the number of dimensions, sizes, values (LeCun's format)."""
    header = struct.pack(f">HBB{values.dim()}I", 0, 8, values.dim(), *values.shape)
    return header + values.to(torch.uint8).numpy().tobytes()


def put(folder: Path, described: IdxSet, *, packed: bool = True, count: int = 7, first: int = 0) -> Tensors:
    """The four files with `count` training and two test pictures, as .gz or not; returns what is in them."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: Tensors = {}
    for name in described.files:
        source = torch.Generator().manual_seed(len(tensors))
        m = count if "train" in name else 2
        shape, low, high = ((m, 28, 28), 0, 256) if "images" in name else ((m,), first, 10)
        tensors[name] = torch.randint(low, high, shape, generator=source)
        content = idx(tensors[name])
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
    return tensors


def loaded(name: str, root: Path | None = None, **options: Any) -> Samples:
    """The data set, from below that root."""
    found: Samples = plugins.resolve("dataset", name)(data_root=root, **options)
    return found


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("place", ["", "{home}", "{kind}", "{kind}/raw"])
@pytest.mark.parametrize("name", MOMENTS)
def test_the_files_are_found_where_people_keep_them(tmp_path: Path, name: str, place: str, packed: bool) -> None:
    """Debian's .gz folder, torchvision's layout, or the root itself; the tensors are what the files hold."""
    described = SETS[name]
    below = place.format(home=described.home, kind=described.kind)
    files = list(put(tmp_path / "root" / below, described, packed=packed).values())
    data = loaded(name, tmp_path / "root")
    assert data.test is not None
    mean, deviation = MOMENTS[name]
    pixels = data.train[0] * deviation + mean
    assert data.train[0].shape == (7, 1, 28, 28)
    assert (data.train[0].dtype, data.train[1].dtype, data.classes) == (torch.float32, torch.int64, 10)
    assert torch.equal((pixels * 255).round().to(torch.int64)[:, 0], files[0])
    assert torch.equal(data.train[1], files[1])
    assert torch.equal(data.test[1], files[3])


def test_emnist_stands_upright_and_is_normalised(tmp_path: Path) -> None:
    """Rows and columns are exchanged; the training pixels have mean 0 and deviation 1, by counts of themselves."""
    files = list(put(tmp_path / "EMNIST" / "raw", SETS["emnist"], packed=False, count=50).values())
    data = loaded("emnist", tmp_path)
    assert data.classes == 47
    raw = files[0].transpose(1, 2).double() / 255
    expected = (raw - raw.mean()) / raw.std(correction=0)
    torch.testing.assert_close(data.train[0][:, 0].double(), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(data.train[1], files[1])


def test_emnist_s_letters_count_from_one(tmp_path: Path) -> None:
    """Label 1, the letter a, is class 0 of 26; a 0 in such a file is no letter."""
    letters = emnist.described("letters")
    files = list(put(tmp_path, letters, first=1).values())
    data = loaded("emnist", tmp_path, split="letters")
    assert data.classes == 26
    assert torch.equal(data.train[1], files[1] - 1)
    (tmp_path / f"{letters.files[1]}.gz").write_bytes(gzip.compress(idx(torch.zeros(7))))
    with pytest.raises(MissingDataError, match="has labels from 1 on, these files a 0"):
        loaded("emnist", tmp_path, split="letters")


def test_the_environment_names_a_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """FLSPAN_DATA_ROOT serves where --data-root is not given."""
    put(tmp_path / "root", SETS["fashion-mnist"])
    monkeypatch.setenv("FLSPAN_DATA_ROOT", str(tmp_path / "root"))
    assert len(loaded("fashion-mnist").train[0]) == 7


def test_a_missing_set_says_what_to_put_where(tmp_path: Path) -> None:
    """One line with the four files, the folders, and how to have it downloaded."""
    with pytest.raises(MissingDataError) as caught:
        loaded("fashion-mnist", tmp_path / "nothing")
    line = str(caught.value)
    assert line.startswith("the data set Fashion-MNIST is not on this machine: put train-images-idx3-ubyte.gz, ")
    assert str(tmp_path / "nothing" / "fashion-mnist") in line
    assert line.endswith("or say download = true in [data]")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (b"", "does not begin as an idx file does"),
        (b"\x1f\x8b\x08\x00", "Compressed file ended"),
        (b"<html>not found</html>", "Not a gzipped file"),
        (gzip.compress(idx(torch.zeros(3))[:-1]), r"2 bytes for \[3\]"),
        (gzip.compress(idx(torch.zeros(3, 28, 28))), "does not begin as an idx file does"),
        (gzip.compress(idx(torch.zeros(3))), "3 labels for 2 pictures"),
        (gzip.compress(idx(torch.tensor([1, 10]))), "a label 10, where 9 is the last"),
    ],
    ids=["empty", "cut", "a page", "short", "pictures", "few", "label"],  # gzip's bytes hold the time of day
)
def test_a_damaged_file_is_one_line(tmp_path: Path, damage: bytes, text: str) -> None:
    """A cut download, an error page or another file under its name is named, with what is wrong."""
    put(tmp_path, SETS["fashion-mnist"])
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(damage)
    with pytest.raises(MissingDataError, match=rf"t10k-labels-idx1-ubyte\.gz is damaged: .*{text}"):
        loaded("fashion-mnist", tmp_path)


def test_pictures_of_another_size_are_refused(tmp_path: Path) -> None:
    """The 28x28 of all models for them is checked."""
    put(tmp_path, SETS["mnist"])
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(torch.zeros(7, 8, 8))))
    with pytest.raises(MissingDataError, match=r"pictures of \[8, 8\], not 28x28 pixels"):
        loaded("mnist", tmp_path)


def test_an_old_processed_file_is_not_unpickled(tmp_path: Path) -> None:
    """What torchvision's class would `torch.load`, processed/training.pt beside raw/, is never opened."""
    put(tmp_path / "MNIST" / "raw", SETS["mnist"], packed=False)
    (tmp_path / "MNIST" / "processed").mkdir()
    for name in ("training.pt", "test.pt"):
        (tmp_path / "MNIST" / "processed" / name).write_bytes(b"no such thing")
    assert len(loaded("mnist", tmp_path).train[0]) == 7


@pytest.mark.net
@pytest.mark.parametrize("name", MOMENTS)
def test_it_is_fetched_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: tuple[Path, str], name: str
) -> None:
    """`download = true` fetches the four files, held against their MD5 sums, into the cache, once."""
    described = SETS[name]
    kind = getattr(torchvision.datasets, described.kind)
    put(served[0], described)
    sums = [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in sorted(served[0].iterdir())]
    monkeypatch.setattr(kind, "resources", sums)
    monkeypatch.setattr(kind, "mirrors", [f"{served[1]}nothing/", served[1]])
    with pytest.raises(MissingDataError, match="not on this machine"):
        loaded(name, tmp_path / "nothing")
    assert len(loaded(name, tmp_path / "nothing", download=True).train[0]) == 7
    for path in served[0].iterdir():
        path.unlink()
    assert len(loaded(name).train[0]) == 7


@pytest.mark.net
def test_a_download_with_another_sum_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, served: tuple[Path, str], tmp_path: Path
) -> None:
    """A changed file is refused, and nothing is left that a later run would take for the set."""
    put(served[0], SETS["mnist"])
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [served[1]])
    with pytest.raises(MissingDataError, match=r"MNIST could not be downloaded: .*train-images-idx3-ubyte"):
        loaded("mnist", tmp_path, download=True)
    assert not list((cache_folder() / "unpacked").iterdir())


@pytest.mark.net
def test_emnist_is_fetched_split_by_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: tuple[Path, str]
) -> None:
    """Of the archive of all splits the one asked for is kept, as the archive has it."""
    put(tmp_path / "packing", SETS["emnist"])
    archive = served[0] / "gzip.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in (tmp_path / "packing").iterdir():
            packed.write(path, f"gzip/{path.name}")
    monkeypatch.setattr(torchvision.datasets.EMNIST, "url", f"{served[1]}gzip.zip")
    monkeypatch.setattr(torchvision.datasets.EMNIST, "md5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert len(loaded("emnist", tmp_path / "nothing", download=True).train[0]) == 7
    archive.unlink()
    assert len(loaded("emnist").train[0]) == 7
    assert not list((cache_folder() / "unpacked").rglob("*.zip"))
    with pytest.raises(MissingDataError, match=r"EMNIST could not be downloaded from .*404"):
        loaded("emnist", split="digits", download=True)
