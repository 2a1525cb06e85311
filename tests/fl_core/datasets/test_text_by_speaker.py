"""A play by speaker: who says what, windows that cross no border, and the real text where it is at hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fl_core.datasets import Samples
from fl_core.datasets.text_by_speaker import load, speeches
from fl_core.errors import ExperimentError, MissingDataError

pytestmark = pytest.mark.usefixtures("alone")
PLAY = "A:\nabcdefgh\nij\n\nB:\nxyz\n\nA:\nklmno\n\npqrst\n"
REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "tinyshakespeare.txt"


def texts(data: Samples, characters: str = "".join(sorted(set(PLAY)))) -> list[str]:
    """Every training sample as text, its label after a bar."""
    rows = zip(data.train[0].tolist(), data.train[1].tolist(), strict=True)
    return ["".join(characters[k] for k in row) + "|" + characters[label] for row, label in rows]


def test_speeches_go_to_who_speaks() -> None:
    """A name and a colon begin a speech; a block without is the same speaker's; line ends of Windows are line ends."""
    expected = {"A": "abcdefgh\nij\nklmno\npqrst", "B": "xyz"}
    assert speeches(PLAY) == expected
    assert speeches(PLAY.replace("\n", "\r\n")) == expected
    assert speeches("Prologue\n\nA:\nWell: yes\n") == {"A": "Well: yes"}


def test_samples_lie_within_a_speaker_and_a_part(tmp_path: Path) -> None:
    """Windows of `length`, `stride` apart, and the character after; the test set has the last share of each text."""
    (tmp_path / "play.txt").write_text(PLAY)
    data = load(data_root=tmp_path, path="play.txt", length=4, stride=3, min_characters=3, test_share=0.4)
    assert texts(data) == ["abcd|e", "defg|h", "gh\ni|j", "ij\nk|l"]  # the first 14 of A's 23; B's two are too short
    assert data.ids.tolist() == [0, 0, 0, 0]
    assert data.test is not None
    assert len(data.test[1]) == 2
    assert data.classes == len(set(PLAY))
    assert data.train[0].dtype is torch.uint8


def test_every_speaker_is_a_client_of_her_own(tmp_path: Path) -> None:
    """Ids number the speakers with enough to say."""
    (tmp_path / "play.txt").write_text(PLAY)
    data = load(data_root=tmp_path, path="play.txt", length=2, stride=1, min_characters=3, test_share=0.0)
    assert data.ids.tolist() == [0] * 21 + [1]
    assert texts(data)[-1] == "xy|z"
    assert data.test is None


def test_many_characters_need_more_than_a_byte(tmp_path: Path) -> None:
    """Beyond 256 different characters the inputs are int16, and still their numbers."""
    (tmp_path / "play.txt").write_text("A:\n" + "".join(map(chr, range(1000, 1400))), encoding="utf-8")
    data = load(data_root=tmp_path, path="play.txt", length=2, min_characters=10, test_share=0.0)
    assert data.train[0].dtype is torch.int16
    assert int(data.train[1].max()) == data.classes - 1 == 402


def test_what_is_no_such_text(tmp_path: Path) -> None:
    """No file, no UTF-8, and nobody who says enough: each in words."""
    with pytest.raises(MissingDataError, match=r"text-by-speaker is not on this machine: put play\.txt in one of"):
        load(data_root=tmp_path, path="play.txt")
    (tmp_path / "play.txt").write_bytes(b"A:\n\xff\xfe")
    with pytest.raises(MissingDataError, match=r"play\.txt is no UTF-8 text"):
        load(data_root=tmp_path, path="play.txt")
    (tmp_path / "play.txt").write_text(PLAY)
    with pytest.raises(ExperimentError, match=r"^\[data\] min_characters: play\.txt has no speaker with 1000"):
        load(data_root=tmp_path, path="play.txt")


@pytest.mark.skipif(not REAL.is_file(), reason="tinyshakespeare.txt is not beside the project")
def test_the_real_text() -> None:
    """299 speakers, 141 of them with at least 1,000 characters, 65 different characters."""
    found = speeches(REAL.read_text(encoding="utf-8"))
    assert len(found) == 299
    data = load(path=str(REAL), stride=80)
    assert (int(data.ids.max()) + 1, data.classes) == (141, 65)
