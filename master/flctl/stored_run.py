"""A run as its folder has it: settings by dotted key, metrics by name. Reads files only; nothing of torch."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from master.observers.metrics_jsonl import read_metrics
from master.runs import RunFolder
from protocol.errors import InputError

Record = Mapping[str, Any]


class StoredRun:
    """One run folder, read when asked and then kept.

    Attributes:
        name: of the folder, `<label>-s<seed>-<digest>`.
    """

    def __init__(self, path: Path) -> None:
        self.folder = RunFolder(path)
        self.path = path
        self.name = path.name

    @cached_property
    def tables(self) -> dict[str, Any]:
        """The resolved experiment. InputError: its file is damaged."""
        try:
            return tomllib.loads(self.folder.experiment())
        except (ValueError, OSError) as error:
            raise InputError(f"{self.path / 'experiment.toml'} cannot be read: {error}") from error

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The experiment's values by dotted key: `local.optimizer.lr` -> 0.1."""
        return dict(_flat(self.tables))

    @cached_property
    def summary(self) -> dict[str, Any]:
        """summary.json, or nothing."""
        return self.folder.summary() or {}

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """metrics.jsonl: one object a round."""
        return read_metrics(self.folder.metrics)

    @cached_property
    def last(self) -> dict[str, float]:
        """The last value measured of every metric."""
        found: dict[str, float] = {}
        for record in self.records:
            found.update(record)
        found.pop("round", None)
        return found

    @property
    def rounds(self) -> int:
        """Rounds done."""
        return int(self.records[-1]["round"]) if self.records else 0

    @cached_property
    def environment(self) -> dict[str, Any]:
        """What the last start ran on."""
        return (self.folder.environments() or [{}])[-1]

    @cached_property
    def status(self) -> str:
        """ "running", "finished", "stopped", "failed", or "interrupted" where a process ended without a word."""
        if is_locked(self.path):
            return "running"
        return str(self.summary.get("reason", "interrupted"))

    def value(self, key: str) -> Any:
        """What `key` names: a setting, a table (as words), a fact of the run, or a metric's last value; else None."""
        facts = {"run": self.name, "folder": str(self.path), "started": self.environment.get("started")}
        if key in facts:
            return facts[key]
        if key == "status":
            return self.status
        if key == "round":
            return self.rounds
        if key in self.settings:
            return self.settings[key]
        table = _table_at(self.tables, key)
        return as_words(table) if table is not None else self.last.get(key)

    def series(self, metric: str) -> dict[int, float]:
        """The metric by round, where it was measured. Before the first round nothing was sent, asked or waited for."""
        if metric == "round":
            return {int(record["round"]): float(record["round"]) for record in self.records}
        found = {int(record["round"]): float(record[metric]) for record in self.records if metric in record}
        if metric in CUMULATIVE and found and any(record["round"] == 0 for record in self.records):
            found.setdefault(0, 0.0)
        return found


CUMULATIVE = frozenset({"oracle_calls", "bits_up", "bits_down", "wire_bytes_sent", "wire_bytes_received", "elapsed_s"})
"""Counts that are 0 at x0 by their definition."""

FACTS = ("run", "status", "round", "started", "folder")
"""Keys of `StoredRun.value` that are neither settings nor metrics."""


def keys_of(runs: list[StoredRun]) -> list[str]:
    """Every key that `value` answers for one of the runs: for error texts."""
    found: dict[str, None] = dict.fromkeys(FACTS)
    for run in runs:
        found |= dict.fromkeys((*run.settings, *run.last, *(key for key, value in run.tables.items() if _named(value))))
    return list(found)


def as_words(value: Any) -> str:
    """A value as a reader wants it: `randk (k = 40%)` for a table, `0.1`, `a, b`."""
    if isinstance(value, Mapping):
        rest = [f"{key} = {as_words(item)}" for key, item in value.items() if key != "name"]
        name = str(value.get("name", ""))
        return f"{name} ({', '.join(rest)})" if name and rest else name or ", ".join(rest)
    if isinstance(value, list):
        return ", ".join(as_words(item) for item in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isnan(value):
        return f"{value:.6g}"
    return str(value)


def is_locked(folder: Path) -> bool:
    """Whether a process holds the run's lock, as /proc/locks says: asking the lock itself could keep flmaster out."""
    try:
        inode = folder.stat().st_ino
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    return any(len(part) > 5 and part[1] == "FLOCK" and part[5].endswith(f":{inode}") for part in map(str.split, lines))


def _named(value: Any) -> bool:
    return isinstance(value, Mapping) and "name" in value


def _table_at(tables: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    found: Any = tables
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found if isinstance(found, Mapping) else None


def _flat(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tables.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


__all__ = ["CUMULATIVE", "FACTS", "StoredRun", "as_words", "is_locked", "keys_of"]
