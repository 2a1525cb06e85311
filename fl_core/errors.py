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
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType

from protocol.errors import FlspanError, InputError, RunError


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
    """The user's own code raised. `file` and `line` are hers; `client` and `worker` say for whom and where.

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
        message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return cls(message, file=place.file, line=place.line, client=client, worker=worker, traceback_text=text)

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.file else ""
        whom = [f"client {self.client}"] if self.client is not None else []
        whom += [f"worker {self.worker}"] if self.worker is not None else []
        return f"{place}{self.message}" + (f" ({', '.join(whom)})" if whom else "")


def _syntax_place(error: BaseException) -> _Place | None:
    if isinstance(error, SyntaxError) and error.filename is not None:
        return _Place(error.filename, error.lineno or 0)
    return None


def _innermost(tb: TracebackType | None, files: frozenset[str]) -> _Place | None:
    frames = [_Place(f.filename, f.lineno or 0) for f in traceback.extract_tb(tb)]
    hers = [place for place in frames if place.file in files]
    return hers[-1] if hers else None


__all__ = [
    "ExperimentError",
    "FlspanError",
    "InputError",
    "MissingDataError",
    "PlugInError",
    "RunError",
    "UserCodeError",
    "nearest",
    "spelled",
]
