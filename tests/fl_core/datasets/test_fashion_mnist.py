"""Fashion-MNIST, from tiny files of the same layout, and the real one where it is installed."""

from __future__ import annotations

import gzip
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from fl_core.datasets import fashion_mnist
from fl_core.datasets.roots import SYSTEM_FOLDERS, VARIABLES, cache_folder
from fl_core.errors import MissingDataError


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data root but those a test gives, and a cache of its own."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("fl_core.datasets.roots.SYSTEM_FOLDERS", ())


def idx(values: torch.Tensor) -> bytes:
    """An idx file of unsigned bytes: magic 0x08 and the number of dimensions, sizes, values (LeCun's format)."""
    header = struct.pack(f">HBB{values.dim()}I", 0, 8, values.dim(), *values.shape)
    return header + values.to(torch.uint8).numpy().tobytes()


def put(folder: Path, *, packed: bool, count: int = 7) -> dict[str, torch.Tensor]:
    """The four files with `count` training and two test pictures, as .gz or not; returns what is in them."""
    folder.mkdir(parents=True)
    tensors: dict[str, torch.Tensor] = {}
    for name in fashion_mnist.FILES:
        m = count if name.startswith("train") else 2
        shape = (m, 28, 28) if "images" in name else (m,)
        top = 256 if "images" in name else 10
        tensors[name] = torch.randint(0, top, shape, generator=torch.Generator().manual_seed(len(tensors)))
        content = idx(tensors[name])
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
    return tensors


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("place", ["", "fashion-mnist", "FashionMNIST", "FashionMNIST/raw"])
def test_the_files_are_found_where_people_keep_them(tmp_path: Path, place: str, packed: bool) -> None:
    """Debian's .gz folder, torchvision's layout, or the root itself; the tensors are what the files hold."""
    files = put(tmp_path / "root" / place, packed=packed)
    data = fashion_mnist.load(data_root=tmp_path / "root")
    assert data.test is not None
    pixels = data.train[0] * 0.3530 + 0.2860
    assert data.train[0].shape == (7, 1, 28, 28)
    assert data.train[0].dtype is torch.float32
    assert torch.equal((pixels * 255).round().to(torch.int64)[:, 0], files["train-images-idx3-ubyte"])
    assert torch.equal(data.train[1], files["train-labels-idx1-ubyte"])
    assert torch.equal(data.test[1], files["t10k-labels-idx1-ubyte"])


def test_the_environment_names_a_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """FLSPAN_DATA_ROOT serves where --data-root is not given."""
    put(tmp_path / "root", packed=True)
    monkeypatch.setenv("FLSPAN_DATA_ROOT", str(tmp_path / "root"))
    assert len(fashion_mnist.load().train[0]) == 7


def test_processes_that_unpack_at_once_get_whole_files(tmp_path: Path) -> None:
    """Several unpack the same set: one wins by a rename, all read it whole, nothing is left over."""
    put(tmp_path / "root", packed=True)
    with ThreadPoolExecutor(4) as pool:
        sizes = list(pool.map(lambda _: len(fashion_mnist.load(data_root=tmp_path / "root").train[0]), range(4)))
    assert sizes == [7] * 4
    assert len(list((cache_folder() / "unpacked").iterdir())) == 1


def test_other_files_are_not_read_from_the_old_cache(tmp_path: Path) -> None:
    """Replaced files are unpacked anew."""
    put(tmp_path / "one", packed=True, count=3)
    put(tmp_path / "two", packed=True, count=5)
    assert len(fashion_mnist.load(data_root=tmp_path / "one").train[0]) == 3
    assert len(fashion_mnist.load(data_root=tmp_path / "two").train[0]) == 5


def test_a_missing_set_says_what_to_put_where(tmp_path: Path) -> None:
    """One line with the four files and the folders."""
    with pytest.raises(MissingDataError) as caught:
        fashion_mnist.load(data_root=tmp_path / "nothing")
    line = str(caught.value)
    assert line.startswith("the data set Fashion-MNIST is not on this machine: put train-images-idx3-ubyte.gz, ")
    assert str(tmp_path / "nothing" / "fashion-mnist") in line
    assert "\n" not in line


@pytest.mark.parametrize("damage", [b"", b"\x1f\x8b\x08\x00", b"<html>not found</html>"])
def test_a_damaged_file_is_one_line_and_leaves_no_cache(tmp_path: Path, damage: bytes) -> None:
    """A cut download or an error page under the file's name is named, and never cached as the set."""
    put(tmp_path / "root", packed=True)
    (tmp_path / "root" / "t10k-labels-idx1-ubyte.gz").write_bytes(damage)
    with pytest.raises(MissingDataError, match=r"t10k-labels-idx1-ubyte\.gz is damaged|are not Fashion-MNIST's"):
        fashion_mnist.load(data_root=tmp_path / "root")
    put(tmp_path / "whole", packed=True)
    assert len(fashion_mnist.load(data_root=tmp_path / "whole").train[0]) == 7


@pytest.mark.slow
@pytest.mark.skipif(
    not (SYSTEM_FOLDERS[0] / "fashion-mnist" / "train-images-idx3-ubyte.gz").is_file(),
    reason="Debian's dataset-fashion-mnist is not installed",
)
def test_the_real_set() -> None:
    """60,000 and 10,000 pictures, 6,000 and 1,000 a class, normalised over the training set."""
    data = fashion_mnist.load(data_root=SYSTEM_FOLDERS[0])
    assert data.test is not None
    assert data.train[0].shape == (60000, 1, 28, 28)
    assert torch.bincount(data.train[1]).tolist() == [6000] * 10
    assert torch.bincount(data.test[1]).tolist() == [1000] * 10
    assert abs(float(data.train[0].mean())) < 2e-3
    assert abs(float(data.train[0].std()) - 1) < 2e-3
