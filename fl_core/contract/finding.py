"""What a check found: one property, whether it holds, and the numbers it was judged by."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

from fl_core.errors import BREAKS, FlspanError, InputError, UserCodeError, nearest

Outcome: TypeAlias = Literal["ok", "failed", "fact", "skipped"]
S = TypeVar("S")


@dataclass(frozen=True)
class Finding:
    """One line of the report. A "fact" is worth knowing and breaks nothing; "skipped" does not apply."""

    property: str
    outcome: Outcome
    text: str


class BrokenError(Exception):
    """A property does not hold; the text has the numbers."""


class NotApplicableError(Exception):
    """A property means nothing for this plug-in; the text says why."""


Check: TypeAlias = Callable[[S], str]
"""Looks at one property, returns the numbers. Raises BrokenError, NotApplicableError, or what the code raises."""


def judged(name: str, check: Check[S], subject: S, *, fact: bool = False) -> Finding:
    """The finding of one check. What the user's own code raises is a failure with her file and line."""
    try:
        return Finding(name, "fact" if fact else "ok", check(subject))
    except NotApplicableError as reason:
        return Finding(name, "skipped", str(reason))
    except BrokenError as broken:
        return Finding(name, "fact" if fact else "failed", str(broken))
    except UserCodeError as error:
        return Finding(name, "failed", _told(error))
    except (InputError, FlspanError) as error:
        return Finding(name, "fact" if fact else "failed", f"{error}")
    except BREAKS:
        raise
    except BaseException as error:  # a user's code may even leave the interpreter
        text = _told(UserCodeError.of(error, files=()))
        return Finding(name, "failed", text)


def findings(
    checks: dict[str, Check[S]], facts: dict[str, Check[S]], subject: S, only: Collection[str] = ()
) -> Iterator[Finding]:
    """All of them in order, the facts last; with `only`, those of these names."""
    for name, check in (checks | facts).items():
        if not only or name in only:
            yield judged(name, check, subject, fact=name in facts)


def check_names(only: Collection[str], known: Collection[str]) -> None:
    """Raise InputError, with the nearest, for a property there is not."""
    for name in only:
        if name not in known:
            near = nearest(name, known)
            hint = f'did you mean "{near}"?' if near else f"there are: {', '.join(known)}"
            raise InputError(f'no property is called "{name}"; {hint}')


def _told(error: UserCodeError) -> str:
    """The error and, from its traceback, the line of code itself."""
    lines = [line.strip() for line in error.traceback_text.splitlines()]
    place = f'File "{error.file}", line {error.line}'
    places = [k for k, line in enumerate(lines) if error.file and line.startswith(place)]
    code = lines[places[-1] + 1] if places and places[-1] + 1 < len(lines) else ""
    return f"{error}" + (f"   <- {code}" if code else "")


__all__ = ["BrokenError", "Check", "Finding", "NotApplicableError", "Outcome", "check_names", "findings", "judged"]
