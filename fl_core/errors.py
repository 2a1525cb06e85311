"""The branches of the error tree that concern an experiment; its root is in `protocol.errors`.

FlspanError
├── InputError            what the user gave is wrong: exit code 2
│   ├── ExperimentError       the experiment file: which file, line, key; what is wrong; what would be right
│   ├── PlugInError           a file that is named but cannot serve as what it is named for
│   └── MissingDataError      a data set that is not on this machine: what to put where
├── UserCodeError         her own code raised: file, line, client, worker, traceback
├── RunError              the run could not go on: exit code 1
└── ProtocolError         a peer broke the protocol (branches in protocol.errors)
"""

from __future__ import annotations

import difflib
import inspect
import re
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType

from protocol.errors import FlspanError, InputError, RunError

BREAKS = (KeyboardInterrupt, GeneratorExit)
"""What passes through a user's code and is no mistake of it. All else is, `sys.exit()` too."""

USER_MODULE = "flspan_user_"
"""How the name of a module begins that is a file of hers (`plugins.user_module`)."""

_COPY = re.compile(r"(?:/[^/\s\"':]+)*/[0-9a-f]{16}/([^/\n\"':]+\.py)")
"""Where a copy of her file lies in this process: in a folder named by its digest."""


def as_she_named(text: str) -> str:
    """The text with the names of her files where it has the paths of copies of them, which are gone after the run."""
    return _COPY.sub(r"\1", text)


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name that `name` was most likely meant to be, or None if nothing is near."""
    by_spelling = {v.casefold().replace("_", "-"): v for v in valid}
    spelling = name.casefold().replace("_", "-")
    found = difflib.get_close_matches(spelling, by_spelling, n=5, cutoff=0.6)
    swapped = [v for v in found if sorted(v) == sorted(spelling)]  # "adma" is adam, though nearer to adamax
    return by_spelling[(swapped or found)[0]] if found else None


class ExperimentError(InputError):
    """A wrong entry of a file, in one line: `a.toml:3: [local] step: unknown key; did you mean "steps"?`.

    `file` is the experiment file (or `--set`), `path` the dotted path of the key, `line` its line there if it
    has one.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str = "",
        suggestion: str | None = None,
        file: str = "",
        line: int | None = None,
    ) -> None:
        super().__init__(message, path, suggestion, file, line)
        self.message, self.path, self.suggestion, self.file, self.line = message, path, suggestion, file, line

    def at(self, file: str, line: int | None) -> ExperimentError:
        """The same error, with the place it was found at."""
        return ExperimentError(self.message, path=self.path, suggestion=self.suggestion, file=file, line=line)

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line is not None else self.file
        text = f"{spelled(self.path)}: {self.message}" if self.path else self.message
        if self.suggestion is not None:
            text += f'; did you mean "{self.suggestion}"?'
        return f"{place}: {text}" if place else text


def spelled(path: str) -> str:
    """A dotted path as the file shows it: `local.optimizer.lr` becomes `[local] optimizer.lr`."""
    table, dot, key = path.partition(".")
    return f"[{table}] {key}" if dot else table


class PlugInError(InputError):
    """A plug-in file, ours or the user's, that cannot serve: it holds nothing of the kind, or two of them."""


class MissingDataError(InputError):
    """A data set that is not on this machine; the text says which files to put where."""


@dataclass(frozen=True)
class _Place:
    file: str
    line: int


class UserCodeError(FlspanError):
    """The user's own code raised. `file` (as she named it) and `line` are hers; `client` and `worker` say for whom and
    where.

    `traceback_text` is the whole traceback: it crosses the network as text, never as an object.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str = "",
        line: int = 0,
        client: int | None = None,
        worker: str | None = None,
        traceback_text: str = "",
    ) -> None:
        message, file, traceback_text = as_she_named(message), as_she_named(file), as_she_named(traceback_text)
        super().__init__(message, file, line, client, worker, traceback_text)
        self.message, self.file, self.line = message, file, line
        self.client, self.worker, self.traceback_text = client, worker, traceback_text

    @classmethod
    def of(
        cls,
        error: BaseException,
        *,
        files: Iterable[str],
        client: int | None = None,
        worker: str | None = None,
    ) -> UserCodeError:
        """What `error` says, placed at the deepest frame that lies in one of the user's `files`."""
        place = _innermost(error.__traceback__, frozenset(files)) or _syntax_place(error) or _Place("", 0)
        text = "".join(traceback.format_exception(error))
        return cls(_said(error), file=place.file, line=place.line, client=client, worker=worker, traceback_text=text)

    @classmethod
    def of_method(cls, owner: type, method: str, message: str, *, client: int | None = None) -> UserCodeError:
        """What a method of hers returned or left behind is wrong: placed where the method begins."""
        code = getattr(inspect.unwrap(getattr(owner, method)), "__code__", None)
        file, line = ("", 0) if code is None else (code.co_filename, code.co_firstlineno)
        return cls(f"{owner.__name__}.{method} {message}", file=file, line=line, client=client)

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.file else ""
        whom = [f"client {self.client}"] if self.client is not None else []
        whom += [f"worker {self.worker}"] if self.worker is not None else []
        return f"{place}{self.message}" + (f" ({', '.join(whom)})" if whom else "")


def _said(error: BaseException) -> str:
    """The error's type and text, whatever its author made of `__str__`."""
    try:
        text = str(error)
    except Exception as another:
        text = f"its own text raises {type(another).__name__}"
    if isinstance(error, SystemExit):
        text += "; code that runs within a run must not end the process: raise an error instead"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _syntax_place(error: BaseException) -> _Place | None:
    if isinstance(error, SyntaxError) and error.filename is not None:
        return _Place(error.filename, error.lineno or 0)
    return None


def _innermost(tb: TracebackType | None, files: frozenset[str]) -> _Place | None:
    frames = [(frame, _Place(frame.f_code.co_filename, line)) for frame, line in traceback.walk_tb(tb)]
    # By the module's name too: a file of hers may have been imported after the list of them was made.
    hers = [
        place
        for frame, place in frames
        if place.file in files or str(frame.f_globals.get("__name__", "")).startswith(USER_MODULE)
    ]
    return hers[-1] if hers else None


__all__ = [
    "BREAKS",
    "USER_MODULE",
    "ExperimentError",
    "FlspanError",
    "InputError",
    "MissingDataError",
    "PlugInError",
    "RunError",
    "UserCodeError",
    "as_she_named",
    "nearest",
    "spelled",
]
