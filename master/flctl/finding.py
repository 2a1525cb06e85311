"""From what was typed to run folders: a path, a name, or an unambiguous beginning of one."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from master.flctl.stored_run import StoredRun
from protocol.errors import InputError

_LISTED = 8


def all_runs(folder: Path) -> list[StoredRun]:
    """Every run below a folder (or the folder itself), in the order in which they were first started."""
    return sorted((StoredRun(path) for path in _run_folders(folder)), key=_age)


def find_runs(wanted: Iterable[str], runs_dir: Path) -> list[StoredRun]:
    """The runs that each of `wanted` names, in that order, each once.

    Args:
        wanted: folders of a run or of runs, run names, `experiment/run`, or the beginning of a name or of its hash.
        runs_dir: where names are looked for.

    Raises:
        InputError: a name that fits no run, or a beginning that fits several.
    """
    found: dict[Path, StoredRun] = {}
    known: list[StoredRun] | None = None
    for text in wanted:
        runs = _at_path(text, runs_dir)
        if runs is None:
            known = all_runs(runs_dir) if known is None else known
            runs = [_by_name(text, known, runs_dir)]
        for run in runs:
            found.setdefault(run.path.resolve(), run)
    return list(found.values())


def find_run(wanted: str, runs_dir: Path) -> StoredRun:
    """The one run that `wanted` names. InputError: it names none, or several."""
    runs = find_runs([wanted], runs_dir)
    if len(runs) != 1:
        raise InputError(f'"{wanted}" names {len(runs)} runs where one is due: {_listed(runs)}')
    return runs[0]


def _at_path(text: str, runs_dir: Path) -> list[StoredRun] | None:
    """The runs at a path, as given or below `runs_dir`; None if there is no such folder."""
    for path in (Path(text), runs_dir / text):
        if path.is_dir():
            runs = all_runs(path)
            if not runs:
                raise InputError(f"{path} holds no run (a run folder has an experiment.toml and an environment.json)")
            return runs
    return None


def _by_name(text: str, known: list[StoredRun], runs_dir: Path) -> StoredRun:
    exact = [run for run in known if run.name == text]
    begun = exact or [run for run in known if run.name.startswith(text) or _digest(run).startswith(text)]
    if len(begun) == 1:
        return begun[0]
    if begun:
        raise InputError(f'"{text}" fits {len(begun)} runs: {_listed(begun)}; write more of the name, or its path')
    if not known:
        raise InputError(f'there is no run "{text}": {runs_dir} holds no runs (--runs-dir says where they are)')
    near = difflib.get_close_matches(text, [run.name for run in known], n=1, cutoff=0.3)
    hint = f'did you mean "{near[0]}"?' if near else f"there are: {_listed(known)}"
    raise InputError(f'there is no run "{text}" in {runs_dir}; {hint}')


def _age(run: StoredRun) -> tuple[str, int, str]:
    """Start times have whole seconds; experiment.toml is written once, at the first start."""
    starts = run.folder.environments()
    return str(starts[0].get("started")) if starts else "", (run.path / "experiment.toml").stat().st_mtime_ns, run.name


def _digest(run: StoredRun) -> str:
    return run.name.rpartition("-")[2]


def _listed(runs: list[StoredRun]) -> str:
    names = ", ".join(run.name for run in runs[:_LISTED])
    return names + (f", … and {len(runs) - _LISTED} more" if len(runs) > _LISTED else "")


def _run_folders(folder: Path) -> Iterator[Path]:
    for where, folders, files in os.walk(folder):
        if "experiment.toml" in files and "environment.json" in files:
            folders.clear()  # a run holds no runs
            yield Path(where)


__all__ = ["all_runs", "find_run", "find_runs"]
