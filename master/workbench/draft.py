"""The experiment that is being edited: the tables of its file, checked after each change as flmaster would check them.

What the form does not show ([sweep], [[run]], comments aside) stays as the file has it.
"""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from fl_core.errors import ExperimentError, FlspanError, InputError
from fl_core.experiment.places import Places
from fl_core.experiment.reading import parse_override, runs_of
from fl_core.experiment.schema import ROLES, Experiment, SourceFile
from fl_core.experiment.sweep import assign
from master.runs import slug, write_whole

STARTER: dict[str, Any] = {
    "name": "digits",
    "rounds": 50,
    "seed": 1,
    "data": {"name": "digits", "partition": {"name": "dirichlet", "alpha": 0.3}},
    "model": {"name": "logistic"},
    "clients": {"total": 100, "per_round": 10},
    "local": {"epochs": 1, "batch_size": 20, "optimizer": {"name": "sgd", "lr": 0.1}},
    "algorithm": {"name": "fedavg"},
    "evaluate": {"every": 5, "metrics": ["loss", "accuracy"]},
}
"""What a new experiment begins with: it runs as it is."""


@dataclass(frozen=True)
class Verdict:
    """What flmaster would say: the runs, or what is wrong and at which key."""

    experiments: list[Experiment]
    error: str = ""
    path: str = ""


@dataclass
class Draft:
    """Tables, and the file they came from.

    Attributes:
        path: None until it was saved once.
        saved: the tables as the file has them.
    """

    tables: dict[str, Any]
    path: Path | None = None
    saved: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def new(cls) -> Draft:
        """An experiment that runs as it is."""
        return cls(copy.deepcopy(STARTER))

    @classmethod
    def read(cls, path: Path) -> Draft:
        """The experiment of a file. InputError: there is none, or it is no TOML."""
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read: {error}") from None
        return cls(tables, path, copy.deepcopy(tables))

    # --- editing -----------------------------------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        """The value at a dotted path; None if the file leaves it out."""
        found: Any = self.tables
        *tables, key = path.split(".")
        for part in tables:
            found = found.get(part) if isinstance(found, Mapping) else None
            if isinstance(found, str):
                found = {"name": found}  # uplink = "randk"
        return found.get(key) if isinstance(found, Mapping) else None

    def put(self, path: str, value: Any) -> None:
        """Set the value; None takes the key out, and a table that is then empty with it."""
        keys = tuple(path.split("."))
        if value is not None:
            assign(self.tables, keys, value)
            return
        tables: list[Any] = [self.tables]
        for key in keys[:-1]:
            tables.append(tables[-1].get(key) if isinstance(tables[-1], dict) else None)
        if isinstance(tables[-1], dict):
            tables[-1].pop(keys[-1], None)
        for depth in range(len(keys) - 2, -1, -1):
            if tables[depth + 1] == {}:
                del tables[depth][keys[depth]]

    def put_text(self, path: str, text: str) -> None:
        """Set what was typed: TOML, or a bare string. Nothing typed is nothing said. ExperimentError: half a list."""
        self.put(path, parse_override(f"{path}={text}").value if text.strip() else None)

    def choose(self, path: str, name: str | None, options: set[str]) -> None:
        """Another plug-in: the options of the one before mean nothing to it.

        Args:
            options: of the one before; other keys of the table stay.
        """
        for option in options:
            self.put(f"{path}.{option}", None)
        if name is None:
            self.put(path, None)
        else:
            self.put(f"{path}.name", name)

    # --- what it says ------------------------------------------------------------------------------------------------

    def check(self) -> Verdict:
        """What flmaster would say of it."""
        place = self.path or Path.cwd() / "experiment.toml"
        try:
            return Verdict(runs_of(copy.deepcopy(self.tables), place, Places(""), []))
        except ExperimentError as error:
            return Verdict([], str(error.at("", None)), error.path)
        except FlspanError as error:
            return Verdict([], str(error))

    def sources(self) -> list[SourceFile]:
        """The user's own files that are there, with their texts."""
        folder = (self.path or Path("x")).parent
        found = []
        for role in ROLES:
            name = self.get(f"{role}.name")
            if isinstance(name, str) and name.endswith(".py") and (folder / name).is_file():
                found.append(SourceFile.of(role, name, (folder / name).read_text(encoding="utf-8", errors="replace")))
        return found

    def toml(self) -> str:
        """The file it would be."""
        return tomli_w.dumps(self.tables)

    @property
    def is_changed(self) -> bool:
        """Whether its file says something else, or there is none."""
        return self.path is None or self.tables != self.saved

    @property
    def is_carried(self) -> bool:
        """Whether its file with `overrides` is the same runs. A key that `--set` gives is swept no more, for one."""
        if self.path is None:
            return False
        try:
            given = [parse_override(text) for text in self.overrides()]
            carried = runs_of(copy.deepcopy(self.saved), self.path, Places(""), given)
        except FlspanError:
            return False
        return [(e.digest(), e.label) for e in carried] == [(e.digest(), e.label) for e in self.check().experiments]

    def keep(self) -> Path | None:
        """Save it beside its file, under a free name, if no command line could carry it. The new file, if it did."""
        if self.is_carried:
            return None
        return self.save(None if self.path is None else _free(self.path))

    def save(self, path: Path | None = None) -> Path:
        """Write the file; without a path, `<name>.toml` where no other file has that name. OSError as it comes."""
        path = path or self.path or _free(Path(f"{slug(str(self.tables.get('name', 'experiment')))}.toml"))
        write_whole(path.absolute(), self.toml().encode())
        self.path, self.saved = path, copy.deepcopy(self.tables)
        return path

    def overrides(self) -> list[str]:
        """What is not as in the file, as `--set` takes it: `local.optimizer.lr=0.5`."""
        return [f"{path}={inline(value)}" for path, value in _differences(self.saved, self.tables, "")]


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key in [*now, *(key for key in before if key not in now)]:
        path, old, new = f"{prefix}{key}", before.get(key), now.get(key)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping) and set(old) <= set(new):
            yield from _differences(old, new, f"{path}.")
        else:  # a table that lost a key is set as a whole; a key above all tables gets what it has when left out
            yield path, new if new is not None else _absent(key, old)


def _absent(key: str, old: Any) -> Any:
    return {"seed": 0}.get(key, {} if isinstance(old, Mapping) else "")


def inline(value: Any) -> str:
    """A value as TOML has it on one line."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key if _is_bare(key) else inline(key)} = {inline(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(inline(item) for item in value)}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace(
            "\x7f", "\\u007f"
        )  # the one TOML escapes and JSON does not
    return str(value)


def _is_bare(key: str) -> bool:
    return key.replace("-", "_").isidentifier()


def _free(path: Path) -> Path:
    """The path, or with a number where a file is in its way."""
    number = 2
    found = path
    while found.exists():
        found = path.with_stem(f"{path.stem}-{number}")
        number += 1
    return found


__all__ = ["STARTER", "Draft", "Verdict", "inline"]
