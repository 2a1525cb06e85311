"""A play as a plain text file, for next-character prediction; a client is a speaker.

The file has speeches with an empty line between them; a speech begins with its speaker's name and a colon on a line of
their own. It is the task of LEAF's Shakespeare, on another text: numbers are not comparable with theirs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor

from fl_core.datasets import Pair, Samples
from fl_core.datasets.roots import find_file
from fl_core.errors import ExperimentError, MissingDataError
from fl_core.options import Count


def load(
    *,
    data_root: Path | None = None,
    path: str,
    length: Count = 80,
    stride: Count = 1,
    min_characters: Count = 1000,
    test_share: Annotated[float, Meta(ge=0, lt=1)] = 0.2,
) -> Samples:
    """Inputs `[m, length]` of characters' numbers (uint8, or int16 where there are more than 256), labels `[m]` int64.

    Characters are numbered in the order of their code points, those of the whole file. Every speaker's speeches are
    joined by line ends; the last `test_share` of that text is for the test set. A sample lies within one part.

    Args:
        path: the file, UTF-8; absolute, or relative to a data root or the current folder.
        length: characters a sample sees.
        stride: characters from the start of one sample to that of the next.
        min_characters: speakers with fewer are left out.

    Raises:
        MissingDataError: there is no such file. ExperimentError: it is no such text, or has no speaker with so much.
    """
    file = find_file(path, data_root, "text-by-speaker")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise MissingDataError(f"{file} is no UTF-8 text: {error}") from None
    characters = sorted(set(text))
    number_of = {character: number for number, character in enumerate(characters)}
    kind = torch.uint8 if len(characters) <= 256 else torch.int16
    train: list[Pair] = []
    test: list[Pair] = []
    for speech in speeches(text).values():
        numbers = torch.tensor([number_of[character] for character in speech], dtype=kind)
        cut = round((1 - test_share) * len(numbers))
        if len(numbers) >= min_characters and cut > length:
            train.append(_windows(numbers[:cut], length, stride))
            test += [_windows(numbers[cut:], length, stride)] if len(numbers) - cut > length else []
    if not train:
        message = f"{path} has no speaker with {min_characters} characters, or none longer than length = {length}"
        raise ExperimentError(message, path="data.min_characters")
    ids = torch.repeat_interleave(torch.tensor([len(targets) for _, targets in train]))
    return Samples(_joined(train), _joined(test) if test else None, len(characters), ids)


def speeches(text: str) -> dict[str, str]:
    """Speaker -> all she says, joined by line ends, in the order in which speakers first speak."""
    found: dict[str, list[str]] = {}
    speaker = None
    for block in text.replace("\r\n", "\n").split("\n\n"):
        name, _, said = block.strip("\n").partition("\n")
        if name.endswith(":"):
            speaker = name[:-1]
        elif speaker is not None:
            said = block.strip("\n")  # a pause within a speech
        if speaker is not None and said:
            found.setdefault(speaker, []).append(said)
    return {name: "\n".join(said) for name, said in found.items()}


def _windows(numbers: Tensor, length: int, stride: int) -> Pair:
    rows = numbers.unfold(0, length + 1, stride)
    return rows[:, :-1], rows[:, -1].to(torch.int64)


def _joined(pairs: list[Pair]) -> Pair:
    return torch.cat([pair[0] for pair in pairs]), torch.cat([pair[1] for pair in pairs])
