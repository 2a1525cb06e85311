"""Operators by name and options, with errors that help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from compressors.build import build, configure, names
from compressors.compose import Compose
from compressors.compressor import CompressorOptionError
from compressors.natural import Natural
from compressors.randk import RandK
from compressors.std_dithering import StdDithering
from compressors.switch import Switch
from protocol.errors import InputError


def test_names_are_files_with_one_operator() -> None:
    """The interface, the abstract bases and the scaled contraction are no plug-ins."""
    assert "natural-dithering" in names()
    assert not {"compressor", "chain", "contraction", "quantizer", "dithering", "build"} & set(names())


def test_hyphen_is_underscore() -> None:
    """Both spellings, and options with defaults."""
    assert build("std-dithering", {"s": 3}) == build("std_dithering", {"s": 3}) == StdDithering(3, 2)


def test_nested_tables_are_built() -> None:
    """Tables, bare names and built compressors in `of`."""
    nested = build(
        "switch",
        {"of": [{"name": "compose", "of": ["natural", {"name": "randk", "k": "10%"}]}, Natural()]},
    )
    assert nested == Switch([Compose([Natural(), RandK("10%")]), Natural()])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("naturl", {}, 'no compressor "naturl"; did you mean "natural"?'),
        ("zzzz", {}, "there are: compose, identity"),
        ("../natural", {}, "no compressor"),
        ("randk", {"kk": 3}, 'randk has no option "kk"; did you mean "k"?'),
        ("randk", {}, 'randk needs the option "k"'),
        ("natural", {"s": 3}, 'natural has no option "s"; it takes none'),
        ("randk", {"k": 0.1}, 'did you mean "10%"'),
        ("lazy", {"p": 0}, "probability"),
        ("lazy", {"p": "0.5"}, "probability"),
        ("qsgd", {"s": 0}, "s = 0 must be an integer"),
        ("qsgd", {"s": 2.5}, "s = 2.5 must be an integer"),
        ("natural-dithering", {"s": 101}, "from 1 to 100"),
        ("std-dithering", {"s": 3, "norm": 0.5}, "norm = 0.5"),
        ("compose", {"of": "natural"}, "`of` must be a list"),
        ("compose", {"of": [{"k": 3}]}, "needs a name"),
        ("compose", {"of": [3]}, "needs a name"),
        ("compose", {"of": []}, "at least one"),
    ],
)
def test_mistakes_are_explained(name: str, options: dict[str, Any], message: str) -> None:
    """One sentence with what is wrong and the nearest right thing; an InputError."""
    with pytest.raises(CompressorOptionError) as caught:
        build(name, options)
    assert message in str(caught.value)
    assert isinstance(caught.value, InputError)


def test_a_users_class_is_configured_alike() -> None:
    """Fields are options; a class that is no dataclass is said to need one."""

    @dataclass(frozen=True)
    class Mine(RandK):
        extra: int = 3

    mine = configure(Mine, {"k": 2, "extra": 4}, name="my_compressor.py")
    assert mine == Mine(2, 4)
    with pytest.raises(CompressorOptionError, match=r'my_compressor.py has no option "etxra"'):
        configure(Mine, {"k": 2, "etxra": 4}, name="my_compressor.py")
