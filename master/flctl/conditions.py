"""`--where` and `--sort`: which runs, and in what order, by their settings and by what they measured."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from master.flctl.stored_run import StoredRun, as_words, keys_of
from protocol.errors import InputError

_CONDITION = re.compile(r"^\s*([\w.\-]+?)\s*(!=|<=|>=|=|<|>|~)\s*(.*?)\s*$")
_COMPARED: dict[str, Callable[[float, float], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


@dataclass(frozen=True)
class Condition:
    """One `--where key=value`; operators = != < <= > >= and ~ (the text holds it)."""

    key: str
    operator: str
    wanted: str

    @classmethod
    def of(cls, text: str) -> Condition:
        """Parse it. InputError: it has no operator."""
        match = _CONDITION.match(text)
        if match is None:
            raise InputError(f'--where {text}: must look like key=value, with one of = != < <= > >= ~ ("contains")')
        return cls(*match.groups())

    def holds(self, run: StoredRun) -> bool:
        """Whether the run meets it. What a run does not have is equal to nothing and smaller than nothing."""
        value = run.value(self.key)
        if self.operator in _COMPARED:
            a, b = _number(value), _number(self.wanted)
            if b is None:
                raise InputError(f"--where {self.key}{self.operator}{self.wanted}: {self.wanted!r} is no number")
            return a is not None and _COMPARED[self.operator](a, b)
        if self.operator == "~":
            return value is not None and self.wanted.casefold() in as_words(value).casefold()
        return _equal(value, self.wanted) is (self.operator == "=")


def selected(runs: list[StoredRun], where: Iterable[str]) -> list[StoredRun]:
    """The runs that meet every condition. InputError: a condition on a key that none of the runs has."""
    for condition in map(Condition.of, where):
        check_key(condition.key, runs, "--where")
        runs = [run for run in runs if condition.holds(run)]
    return runs


def ordered(runs: list[StoredRun], key: str) -> list[StoredRun]:
    """The runs by a key, `-key` for the largest first; runs without a value come last."""
    name = key.removeprefix("-")
    check_key(name, runs, "--sort")
    with_value = [run for run in runs if run.value(name) is not None]
    with_value.sort(key=lambda run: natural(run.value(name)), reverse=key.startswith("-"))
    return with_value + [run for run in runs if run.value(name) is None]


def check_key(key: str, runs: list[StoredRun], option: str) -> None:
    """Raise InputError, with the nearest key, if none of the runs has a value for it."""
    if not runs or any(run.value(key) is not None for run in runs):
        return
    known = keys_of(runs)
    if key in known:
        return
    near = [name for name in known if name.rpartition(".")[2] == key][-1:]  # "lr": that of the server
    near = near or difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f'did you mean "{near[0]}"?' if near else "flctl show RUN lists what there is"
    raise InputError(f"{option} {key}: no run has such a setting or metric; {hint}")


def natural(value: Any) -> tuple[float, float, str]:
    """A sort key: numbers by value (NaN last), `10%` among them, then words."""
    number = _number(value)
    if number is not None:
        return (0.0, number, "") if number == number else (1.0, 0.0, "")
    return (2.0, 0.0, as_words(value))


def _number(value: Any) -> float | None:
    try:
        return float(str(value).strip().removesuffix("%")) if not isinstance(value, bool) else None
    except ValueError:
        return None


def _equal(value: Any, wanted: str) -> bool:
    if value is None:
        return False
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = _number(wanted)
        return number is not None and float(value) == number
    spelled = as_words(value).casefold().replace("_", "-")
    return spelled == wanted.strip("\"'").casefold().replace("_", "-")


__all__ = ["Condition", "check_key", "natural", "ordered", "selected"]
