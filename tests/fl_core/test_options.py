"""Options read off signatures and fields, and values held against annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_core.errors import ExperimentError
from fl_core.options import (
    MISSING,
    Count,
    MismatchError,
    NonNegative,
    Percentage,
    Positive,
    Probability,
    check_options,
    fitted,
    options_of,
    takes_any,
    words,
)


@pytest.mark.parametrize(
    ("value", "annotation", "result"),
    [
        (3, int, 3),
        (3, float, 3.0),
        (3, Count | Percentage, 3),
        ("10%", Count | Percentage, "10%"),
        ("2.5 %", Percentage, "2.5 %"),
        (None, int | None, None),
        ("Cross-Entropy", Literal["cross_entropy", "mse"], "cross_entropy"),
        (2, Literal[1, 2], 2),
        ([1, 2], tuple[int, ...], [1, 2]),
        ((0.9, 1), tuple[float, float], [0.9, 1.0]),
        ([1, 2], Sequence[float], [1.0, 2.0]),
        ({"a": 1}, Mapping[str, int], {"a": 1}),
        ("theory", Positive | Literal["theory"], "theory"),
        (object, Any, object),
    ],
)
def test_what_fits_is_kept_as_it_is_asked_for(value: object, annotation: Any, result: object) -> None:
    """Integers become floats where floats are asked for, choices get their own spelling, tuples become lists."""
    kept = fitted(value, annotation)
    assert kept == result
    assert type(kept) is type(result)


@pytest.mark.parametrize(
    ("value", "annotation", "text"),
    [
        (True, int, "must be an integer, not true"),
        (1.0, int, "must be an integer, not 1.0"),
        (float("inf"), float, "must be a number, not Infinity"),
        ("0.1", float, 'must be a number, not "0.1"'),
        (0, Count, "must be an integer of at least 1, not 0"),
        (0, Positive, "must be a number greater than 0, not 0"),
        (-1, NonNegative, "must be a number of at least 0, not -1"),
        (2, Probability, "must be a number of at least 0 and at most 1, not 2"),
        ("ten %", Count | Percentage, 'must be an integer of at least 1 or a percentage like "10%", not "ten %"'),
        ([1, "a"], Sequence[int], 'item 2 of the list must be an integer, not "a"'),
        ([1], dict[str, int], "must be a table, not [1]"),
        (True, Literal[1, 2], "must be 1 or 2, not true"),
        ("x" * 100, int, f'must be an integer, not "{"x" * 56}...'),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_in_words(value: object, annotation: Any, text: str) -> None:
    """The text is the rest of a sentence that begins with the key."""
    with pytest.raises(MismatchError) as caught:
        fitted(value, annotation)
    assert str(caught.value) == text


@given(st.one_of(st.integers(), st.floats(), st.text(), st.booleans(), st.lists(st.integers()), st.none()))
def test_no_value_breaks_the_check(value: object) -> None:
    """Whatever TOML can hold either fits or is refused with a sentence."""
    for annotation in (int, Positive, Count | Percentage, Literal["a", 1], tuple[int, float], list[str]):
        refusals: list[str] = []
        try:
            fitted(value, annotation)
        except MismatchError as error:
            refusals.append(str(error))
            begins = ("must be a list of ", "item ") if isinstance(value, list) else ()
            assert all(text.startswith((f"must be {words(annotation)}, not ", *begins)) for text in refusals)


@dataclass(frozen=True)
class Method:
    rate: float
    shifts: Literal["zero", "gradient"] = "zero"
    names: list[str] = field(default_factory=list)
    derived: int = field(init=False, default=3)


def split(targets: object, clients: int, *, alpha: Positive, min_size: Count = 1) -> None:
    """A function with a context and options."""


def test_options_of_a_dataclass_are_its_fields() -> None:
    """Fields that are set by the caller, with their defaults; derived ones are none."""
    options = options_of(Method)
    assert {name: option.default for name, option in options.items()} == {
        "rate": MISSING,
        "shifts": "zero",
        "names": [],
    }
    assert options["rate"].type is float


def test_options_of_a_function_are_its_parameters_without_the_context() -> None:
    """What the caller knows itself is no option."""
    options = options_of(split, context=("targets", "clients"))
    assert list(options) == ["alpha", "min_size"]
    assert options["min_size"] == (Count, 1)
    assert not takes_any(split)
    assert takes_any(lambda **options: None)


@pytest.mark.parametrize(
    ("given_options", "text"),
    [
        ({"alpa": 1}, '[data] partition.alpa: "dirichlet" has no such option; did you mean "alpha"?'),
        ({"zzz": 1}, '[data] partition.zzz: "dirichlet" has no such option; there are: alpha, min_size'),
        ({"alpha": "x"}, '[data] partition.alpha: must be a number greater than 0, not "x"'),
        ({}, '[data] partition.alpha: missing: "dirichlet" needs it, a number greater than 0'),
    ],
)
def test_options_are_checked(given_options: dict[str, Any], text: str) -> None:
    """Unknown, misfit and missing options, each with the dotted path of its key."""
    known = options_of(split, context=("targets", "clients"))
    with pytest.raises(ExperimentError) as caught:
        check_options(given_options, known, path="data.partition", owner="dirichlet")
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        ([1, "x"], tuple[int, ...], 'item 2 of the list must be an integer, not "x"'),
        ([1], tuple[int, int], "must be a list of 2 values, not [1]"),
        (["zzz"], list[Literal["a", "b"]], '"zzz" is none of them: a, b'),
        (3, int | list[str], None),
        (3, list[Count] | None, "must be a list, not 3; write [3]"),
        ("x", list[int], 'must be a list, not "x"'),
    ],
)
def test_a_wrong_item_of_a_list_is_named(value: Any, annotation: Any, expected: str | None) -> None:
    """Not the whole list, which is one."""
    if expected is None:
        assert fitted(value, annotation) == value
        return
    with pytest.raises(MismatchError) as caught:
        fitted(value, annotation)
    assert str(caught.value) == expected
