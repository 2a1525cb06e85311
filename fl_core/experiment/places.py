"""Which line of an experiment file a key stands on: a small search of the text, for the sake of its errors.

tomllib reports no lines. The search knows table headers and `key = value` lines; what stands in an inline
table or spreads over several lines is placed at the line of the key it belongs to, which is where one looks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

Keys: TypeAlias = tuple[str, ...]

_HEADER = re.compile(r"^\s*(\[\[?)\s*(.+?)\s*\]\]?\s*(#.*)?$")
_ENTRY = re.compile(r"""^\s*((?:[\w\-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w\-]+|"[^"]*"|'[^']*'))*)\s*=""")
_PART = re.compile(r"""[\w\-]+""")


def split_key(key: str) -> Keys:
    """The parts of a dotted key; a quoted part with dots (`"local.optimizer.lr"`) counts as dotted too."""
    return tuple(_PART.findall(key))


class Places:
    """The lines of one text.

    Keys of the n-th `[[run]]` are kept below ("run", "n"), those of `[sweep]` below ("sweep",).
    """

    def __init__(self, text: str) -> None:
        self._lines: dict[Keys, int] = {}
        tables: Counter[Keys] = Counter()
        prefix: Keys = ()
        for number, line in enumerate(text.splitlines(), start=1):
            if header := _HEADER.match(line):
                prefix = split_key(header[2])
                if header[1] == "[[":
                    tables[prefix] += 1
                if tables[prefix[:1]]:
                    prefix = (prefix[0], str(tables[prefix[:1]] - 1), *prefix[1:])
                self._note(prefix, number)
            elif entry := _ENTRY.match(line):
                self._note((*prefix, *split_key(entry[1])), number)

    def _note(self, keys: Keys, number: int) -> None:
        for length in range(1, len(keys) + 1):
            self._lines.setdefault(keys[:length], number)

    def line(self, path: Sequence[str], root: Keys = ()) -> int | None:
        """The line of `path` below `root` (see `sweep.origin`), or of the nearest table or key around it."""
        for length in range(len(path), 0, -1):
            if (*root, *path[:length]) in self._lines:
                return self._lines[*root, *path[:length]]
        return self._lines.get(root)
