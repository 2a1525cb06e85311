"""From the tables of an experiment to its record: types, ranges, unknown keys, contradictions between keys.

It knows no file and no plug-in: an error carries the dotted path of its key, and `reading` adds file and
line.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Struct, structs

from fl_core.errors import ExperimentError, nearest
from fl_core.experiment.schema import EVALUATED_METRICS, Experiment, LocalTable, PlugIn, SourceFile, canonical
from fl_core.options import Count, MismatchError, Percentage, fitted, shown, unknown, words

_NAME = re.compile(r"\w[^/\\\0\n]{0,199}")
S = TypeVar("S", bound=Struct)


def build(tables: Mapping[str, Any]) -> Experiment:
    """The experiment of these tables (with `sources`, if it has been read before).

    Raises:
        ExperimentError: an unknown key, a wrong type or range, or two keys that contradict each other.
    """
    given = dict(tables)
    sources = _sources(given.pop("sources", ()))
    experiment = structs.replace(_record(Experiment, given, ""), sources=sources)
    return _completed(experiment)


def _sources(given: Any) -> tuple[SourceFile, ...]:
    try:
        return msgspec.convert(given, tuple[SourceFile, ...])
    except msgspec.ValidationError as error:
        raise ExperimentError(str(error), path="sources") from None


def _record(kind: type[S], table: Any, path: str) -> S:
    """A table as its record. What the record does not name is an option if it has a plug-in, else unknown."""
    if not isinstance(table, Mapping):
        raise ExperimentError(f"must be a table, not {shown(table)}", path=path)
    hints = typing.get_type_hints(kind, include_extras=True)
    hints.pop("sources", None)
    values, options = {}, {}
    for key, value in table.items():
        if key in hints and key != "plug":
            values[key] = _value(value, hints[key], _joined(path, key))
        elif "plug" in hints:
            options[key] = value
        else:
            raise _unknown_key(key, hints, path)
    if "plug" in hints:
        values["plug"] = _plug_in(options, path)
    for field in structs.fields(kind):
        if field.required and field.name not in values:
            raise _missing(hints[field.name], _joined(path, field.name))
    return kind(**values)


def _value(value: Any, annotation: Any, path: str) -> Any:
    members = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    if PlugIn in members:
        return _plug_in(value, path)
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return _record(annotation, value, path)
    if path == "stop":
        return _thresholds(value)
    try:
        result = fitted(value, annotation)
    except MismatchError as error:
        raise ExperimentError(error.message, path=path, suggestion=error.suggestion) from None
    return tuple(result) if isinstance(result, list) else result


def _plug_in(table: Any, path: str) -> PlugIn:
    """A plug-in's table, or its name alone where it has no options."""
    if isinstance(table, str):
        table = {"name": table}
    if not isinstance(table, Mapping):
        raise ExperimentError(f"must be a table with a name, not {shown(table)}", path=path)
    options = dict(table)
    name = options.pop("name", None)
    if name is None:
        raise ExperimentError("missing: the table needs a name", path=_joined(path, "name"))
    if not isinstance(name, str) or not name:
        raise ExperimentError(f"must be a string, not {shown(name)}", path=_joined(path, "name"))
    return PlugIn(canonical(name), options)


def _thresholds(table: Any) -> dict[str, float]:
    if not isinstance(table, Mapping):
        raise ExperimentError(f"must be a table {{ metric = threshold }}, not {shown(table)}", path="stop")
    for key, value in table.items():
        if key not in EVALUATED_METRICS:
            raise unknown(key, EVALUATED_METRICS, f"stop.{key}", "no metric that is evaluated")
        try:
            fitted(value, float)
        except MismatchError as error:
            raise ExperimentError(error.message, path=f"stop.{key}") from None
    return {key: float(value) for key, value in table.items()}


def _unknown_key(key: str, hints: Mapping[str, Any], path: str) -> ExperimentError:
    if "optimizer" in hints and nearest(key, ["lr"]):
        return ExperimentError("unknown key", path=_joined(path, key), suggestion="optimizer.lr")
    return unknown(key, hints, _joined(path, key))


def _missing(annotation: Any, path: str) -> ExperimentError:
    is_table = isinstance(annotation, type) and issubclass(annotation, Struct)
    return ExperimentError(f"missing: every experiment has {'this table' if is_table else 'this key'}", path=path)


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _completed(experiment: Experiment) -> Experiment:
    """The experiment with the defaults that depend on other keys filled in, once these agree."""
    _check_name(experiment.name)
    _check_stop(experiment)
    if experiment.execution.precision == "bfloat16" and experiment.model.dtype != "float32":
        raise ExperimentError(
            f'"bfloat16" is for a model of float32, not of {experiment.model.dtype}', path="execution.precision"
        )
    return structs.replace(experiment, clients=_clients(experiment), local=_local(experiment.local))


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ExperimentError(
            f"names a folder, so it must begin with a letter or digit and have no slash: not {shown(name)}",
            path="name",
        )


def _clients(experiment: Experiment) -> Any:
    clients = experiment.clients
    total, per_round = clients.total, clients.per_round
    if per_round > total:
        raise ExperimentError(f"must be at most total = {total}, not {per_round}", path="clients.per_round")
    if clients.sampling == "full" and per_round not in (0, total):
        raise ExperimentError(
            f'sampling = "full" means all {total} clients, not {per_round}; leave per_round out',
            path="clients.per_round",
        )
    return structs.replace(clients, per_round=per_round or total)


def _local(local: LocalTable) -> LocalTable:
    if local.epochs is not None and local.steps is not None:
        raise ExperimentError("give epochs or steps, not both", path="local.steps")
    if local.gradient in ("nice", "multi") and local.tau is None:
        raise ExperimentError(
            f'missing: gradient = "{local.gradient}" needs it, {words(Count | Percentage)}',
            path="local.tau",
        )
    if local.gradient not in ("nice", "multi") and local.tau is not None:
        raise ExperimentError(
            f'means nothing with gradient = "{local.gradient}"; leave it out, or take "nice" or "multi"',
            path="local.tau",
        )
    epochs = 1 if local.epochs is None and local.steps is None else local.epochs
    return structs.replace(local, epochs=epochs)


def _check_stop(experiment: Experiment) -> None:
    for metric in experiment.stop:
        if metric not in experiment.evaluate.metrics:
            raise ExperimentError(
                "is not evaluated, so it would never stop the run; add it to [evaluate] metrics",
                path=f"stop.{metric}",
            )
