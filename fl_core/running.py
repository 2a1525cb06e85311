"""`from fl_core import run`: an experiment run from Python, in a notebook too, as `flmaster` would run it.

What runs it lives above this package, and imports go one way. So it is a plug-in, as algorithms are
(`fl_core.plugins.FOLDERS`): named here by a string, looked up when it is called, and free to be replaced. This module
says what is asked of it. That way a notebook gets the very bytes of `flmaster`: same loop, same devices, same workers,
same run folders, and there is no second loop to keep equal.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO, TypedDict, Unpack, cast

from msgspec import structs

from fl_core.errors import ExperimentError, InputError, nearest
from fl_core.experiment.building import build
from fl_core.experiment.checking import checked
from fl_core.experiment.places import Places, split_key
from fl_core.experiment.reading import Override, read_experiments, runs_of
from fl_core.experiment.schema import Experiment
from fl_core.experiment.sweep import assign, expand
from fl_core.results import Results

RUNNER = "master.in_process:execute"
"""What executes experiments, as `module:function`; see `Runner`."""


class RunOptions(TypedDict, total=False):
    """How to run, none of which changes a number. Names and defaults are those of flmaster's options.

    Attributes:
        workers: "host:port" of running flworkers.
        spawn: so many workers on this machine for the time of the call.
        devices: "auto", "cpu", "none" or "cuda:0,cuda:1".
        runs_dir: where run folders are made; None keeps none of them.
        resume: go on with unfinished runs and take finished ones as they are.
        track: trackers to hand every record to: "tensorboard", "wandb", "mlflow".
        log: where the lines of the log go, as `sys.stdout`.
    """

    workers: Iterable[str]
    spawn: int
    devices: str
    threads_per_device: int | None
    reference: bool
    data_root: Path | str | None
    runs_dir: Path | str | None
    resume: bool
    parallel_runs: int
    secret_file: Path | str | None
    lz4: bool
    track: Iterable[str]
    log: TextIO | None


class Runner(Protocol):
    """What `RUNNER` names."""

    def __call__(self, experiments: list[Experiment], options: RunOptions) -> Results:
        """Run them all and read what they left."""


Source = Experiment | str | Path | Mapping[str, Any] | Iterable[Experiment]


def run(experiment: Source, overrides: Mapping[str, Any] | None = None, **options: Unpack[RunOptions]) -> Results:
    """Run an experiment, every run of its sweep, and return what each measured.

        results = run("examples/digits.toml", {"rounds": 20, "sweep.seed": [1, 2, 3]})
        results.to_dataframe().pivot(index="round", columns="seed", values="accuracy").plot()

    It blocks until all is done, also where an event loop runs already (Jupyter). Ctrl-C (the notebook's stop button)
    ends the run after its round, with everything saved; the same call goes on from there. A run that fails is among
    the results with `status` "failed" and `error`, and a RuntimeWarning says so.

    Args:
        experiment: a file, its tables as a dictionary (files of your own are looked for in the working directory), an
            `Experiment`, or several of these.
        overrides: values by dotted key, as `flmaster --set` has them.
        options: `RunOptions`.

    Raises:
        ExperimentError: a key or value is wrong.
        InputError: an option is wrong, or nobody could run a client.
        UserCodeError: one of your files could not be imported.
    """
    for name in options:
        if name not in RunOptions.__annotations__:
            near = nearest(name, RunOptions.__annotations__)
            hint = f'did you mean "{near}"?' if near else f"there are: {', '.join(RunOptions.__annotations__)}"
            raise InputError(f'run() has no option "{name}"; {hint}')
    experiments = experiments_of(experiment, overrides or {})
    module, _, function = RUNNER.partition(":")
    runner = cast("Runner", getattr(importlib.import_module(module), function))
    return runner(experiments, options)


def experiments_of(source: Source, overrides: Mapping[str, Any] = {}) -> list[Experiment]:
    """Every run that `source` stands for, complete and checked. Raises as `run` does."""
    given = [Override(f"{key}={value!r}", split_key(key), copy.deepcopy(value)) for key, value in overrides.items()]
    if isinstance(source, str | Path):
        return read_experiments(source, given)
    if isinstance(source, Mapping):
        return _of_tables(source, given)
    several = [source] if isinstance(source, Experiment) else list(source)
    if not several or not all(isinstance(one, Experiment) for one in several):
        raise InputError("run() needs an experiment: a file, a dictionary of tables, an Experiment, or a list of these")
    return [complete for one in several for complete in _complete(one, given)]


def _of_tables(tables: Mapping[str, Any], overrides: list[Override]) -> list[Experiment]:
    document = copy.deepcopy(dict(tables))
    document.setdefault("name", "notebook")
    try:
        return runs_of(document, Path.cwd() / "experiment", Places(""), overrides)
    except ExperimentError as error:
        raise error.at("", None) from None  # there is no file to name, only the key


def _complete(experiment: Experiment, overrides: list[Override]) -> list[Experiment]:
    """The experiment complete and checked, however it was made; several if the overrides hold a sweep."""
    tables = experiment.to_dict()
    tables.pop("sources", None)
    if not experiment.clients.per_round:
        tables["clients"].pop("per_round", None)  # not filled in yet: all of them
    if not experiment.sources:
        return _of_tables(tables, overrides)
    for override in overrides:  # its own files came with it: there is no folder to read them from
        assign(tables, override.path, override.value)
    made = [build(variant.tables) for variant in expand(tables)]
    return [checked(structs.replace(one, sources=experiment.sources)) for one in made]


__all__ = ["RUNNER", "RunOptions", "Runner", "Source", "experiments_of", "run"]
