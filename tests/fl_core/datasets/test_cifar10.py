"""CIFAR10, from tiny files of the same layout whose MD5 sums stand in for the published ones."""

from __future__ import annotations

import hashlib
import pickle  # the layout of the set is the original's, which pickles; torchvision checks the sums before it reads
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from fl_core.datasets import cifar10
from fl_core.datasets.roots import SYSTEM_FOLDERS, VARIABLES, cache_folder
from fl_core.errors import MissingDataError

COUNT = 3
"""Pictures in each of the six files."""


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data root but those a test gives, and a cache of its own."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("fl_core.datasets.roots.SYSTEM_FOLDERS", ())


def contents() -> dict[str, bytes]:
    """The seven files, by name."""
    source = np.random.Generator(np.random.PCG64(1))
    files = {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        pixels = source.integers(0, 256, (COUNT, 3072), dtype=np.uint8)
        files[name] = pickle.dumps({"data": pixels, "labels": source.integers(0, 10, COUNT).tolist()})
    files["batches.meta"] = pickle.dumps({"label_names": [str(i) for i in range(10)]})
    return files


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The tiny files, which torchvision takes for the published ones."""
    made = contents()
    sums = {name: hashlib.md5(content).hexdigest() for name, content in made.items()}
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name in made if name.startswith("data")])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
    return made


def unpacked(folder: Path, files: dict[str, bytes]) -> None:
    """Put the files into cifar-10-batches-py below the folder."""
    (folder / cifar10.FOLDER).mkdir(parents=True)
    for name, content in files.items():
        (folder / cifar10.FOLDER / name).write_bytes(content)


def packed(folder: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the archive there, and let torchvision take it for the published one."""
    unpacked(folder.parent / "packing", files)
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / cifar10.ARCHIVE, "w:gz") as archive:
        archive.add(folder.parent / "packing" / cifar10.FOLDER, cifar10.FOLDER)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5((folder / cifar10.ARCHIVE).read_bytes()).hexdigest())
    return folder / cifar10.ARCHIVE


@pytest.mark.parametrize("place", ["", "CIFAR10", "cifar10", "cifar-10"])
def test_the_folder_is_found_where_people_keep_it(tmp_path: Path, place: str, files: dict[str, bytes]) -> None:
    """The tensors are what the files hold: pictures in order, channels first, each channel normalised."""
    unpacked(tmp_path / "root" / place, files)
    data = cifar10.load(data_root=tmp_path / "root")
    batches = [pickle.loads(content) for name, content in files.items() if name.startswith("data")]  # noqa: S301  (made above)
    pixels = torch.from_numpy(np.concatenate([batch["data"] for batch in batches])).view(-1, 3, 32, 32)
    mean, deviation = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2470, 0.2435, 0.2616])
    inputs, labels = data.train
    assert data.test is not None
    assert (inputs.dtype, labels.dtype, data.classes) == (torch.float32, torch.int64, 10)
    raw = (inputs * deviation.view(3, 1, 1) + mean.view(3, 1, 1)) * 255
    assert torch.equal(raw.round().to(torch.uint8), pixels)
    assert labels.tolist() == [label for batch in batches for label in batch["labels"]]
    assert data.test[0].shape == (COUNT, 3, 32, 32)


def test_the_archive_is_unpacked_once(tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes unpack it at once: one wins, all read it whole, nothing is left over but it."""
    archive = packed(tmp_path / "root", files, monkeypatch)
    with ThreadPoolExecutor(4) as pool:
        sizes = list(pool.map(lambda _: len(cifar10.load(data_root=tmp_path / "root").train[0]), range(4)))
    assert sizes == [5 * COUNT] * 4
    assert [path.name for path in (cache_folder() / "unpacked").iterdir()] == ["cifar10"]
    archive.unlink()
    assert len(cifar10.load().train[0]) == 5 * COUNT


def test_a_changed_file_is_not_read(tmp_path: Path, files: dict[str, bytes]) -> None:
    """A file whose MD5 sum is not the published one is refused before anything in it is run."""
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return ran.write_text, ("it ran",)

    unpacked(tmp_path, {**files, "data_batch_2": pickle.dumps(Evil())})
    with pytest.raises(MissingDataError, match=r"are not CIFAR10's \(their MD5 sums differ\)"):
        cifar10.load(data_root=tmp_path)
    assert not ran.exists()


def test_a_cut_archive_is_one_line_and_leaves_no_cache(
    tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half download under the archive's name is named, and never kept as the set."""
    archive = packed(tmp_path / "root", files, monkeypatch)
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(MissingDataError, match=r"cifar-10-python\.tar\.gz is not CIFAR10's"):
        cifar10.load(data_root=tmp_path / "root")
    assert not (cache_folder() / "unpacked" / "cifar10").exists()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and its address on this machine."""
    folder = tmp_path / "far"
    folder.mkdir()
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    """Writes no log to the terminal."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class's name)
        pass


@pytest.mark.net
def test_nothing_is_fetched_unless_asked_for(
    tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, served: tuple[Path, str]
) -> None:
    """`download = true` fetches the archive into the cache, once; without it, one line says what to do."""
    archive = packed(served[0], files, monkeypatch)
    monkeypatch.setattr(CIFAR10, "url", served[1] + cifar10.ARCHIVE)
    with pytest.raises(MissingDataError) as caught:
        cifar10.load(data_root=tmp_path / "nothing")
    line = str(caught.value)
    assert line.startswith("the data set CIFAR10 is not on this machine: put cifar-10-python.tar.gz in one of ")
    assert "download = true" in line
    assert "\n" not in line
    assert len(cifar10.load(data_root=tmp_path / "nothing", download=True).train[0]) == 5 * COUNT
    archive.unlink()
    assert len(cifar10.load().train[0]) == 5 * COUNT
    assert not list((cache_folder() / "unpacked" / "cifar10").glob("*.gz"))


@pytest.mark.net
def test_a_download_that_fails_is_one_line(
    files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, served: tuple[Path, str]
) -> None:
    """An address with nothing at it says so, and nothing is left that a later run would take for the set."""
    monkeypatch.setattr(CIFAR10, "url", served[1] + "nothing")
    with pytest.raises(MissingDataError, match=r"CIFAR10 could not be downloaded from http://127\.0\.0\.1:.*404"):
        cifar10.load(download=True)
    assert not list((cache_folder() / "unpacked").iterdir())


@pytest.mark.slow
@pytest.mark.skipif(
    not any((root / below / cifar10.FOLDER).is_dir() for root in SYSTEM_FOLDERS for below in cifar10._BELOW),
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
