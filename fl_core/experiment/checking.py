"""An experiment held against its plug-ins: do they exist, do their options, are the values of the right type.

All of it happens before any data is loaded, so that a misspelt option is found in the first second and not in
the last run of a sweep. Nothing is listed here: what a plug-in takes is read off its signature or its fields.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import structs

from compressors.build import configure
from fl_core import plugins
from fl_core.algorithm import Algorithm
from fl_core.errors import ExperimentError, InputError, PlugInError, UserCodeError, nearest
from fl_core.experiment.optimizers import ServerLr, check_optimizer, check_schedule
from fl_core.experiment.schema import Experiment, PlugIn, SourceFile, canonical
from fl_core.options import Positive, check_options, options_of, shown, takes_any
from fl_core.regularizers import REGULARIZERS
from fl_core.user_code import in_code_of


def checked(experiment: Experiment) -> Experiment:
    """The experiment with the options of its plug-ins checked and of the types they ask for.

    Raises:
        ExperimentError: with the dotted path of the key, and the nearest right name.
        UserCodeError: a user's file could not be imported.
    """
    check_participation(_target("algorithm", experiment.algorithm, "algorithm", experiment.sources), experiment)
    data, model, local, server = experiment.data, experiment.model, experiment.local, experiment.server
    files = experiment.sources
    partition = None if data.partition is None else _check("partition", data.partition, "data.partition")
    return structs.replace(
        experiment,
        data=structs.replace(data, plug=_check("dataset", data.plug, "data", files), partition=partition),
        model=structs.replace(
            model,
            plug=_check("model", model.plug, "model", files),
            regularizer=_check_regularizer(model.regularizer),
        ),
        local=structs.replace(local, optimizer=check_optimizer(local.optimizer, "local.optimizer", lr=Positive)),
        server=structs.replace(
            server,
            optimizer=check_optimizer(server.optimizer, "server.optimizer", lr=ServerLr),
            schedule=check_schedule(server.schedule, "server.schedule"),
        ),
        algorithm=_check("algorithm", experiment.algorithm, "algorithm", files),
        uplink=_check_compressor(experiment.uplink, "uplink", files),
        downlink=_check_compressor(experiment.downlink, "downlink", files),
    )


def check_participation(algorithm: type[Algorithm] | Algorithm, experiment: Experiment) -> None:
    """Raise ExperimentError where a sample of the clients takes part and the method is not defined for one."""
    clients = experiment.clients
    if algorithm.participation == "full" and clients.sampling != "full" and clients.per_round != clients.total:
        raise ExperimentError(
            f"{experiment.algorithm.name} needs all {clients.total} clients in every round; leave per_round out",
            path="clients.per_round",
        )


def _check(kind: str, plug: PlugIn, path: str, files: Iterable[SourceFile] = ()) -> PlugIn:
    target = _target(kind, plug, path, files)
    options = check_options(
        plug.options,
        options_of(target, context=plugins.CONTEXT[kind]),
        path=path,
        owner=plug.name,
        open_ended=takes_any(target),
    )
    if dataclasses.is_dataclass(target):
        _try_to_make(target, options, plug, path)
    return PlugIn(plug.name, options)


def _target(kind: str, plug: PlugIn, path: str, files: Iterable[SourceFile]) -> Any:
    """The plug-in itself, or an error that says where it was named."""
    try:
        return plugins.resolve(kind, plug.name, files)
    except PlugInError as error:
        known = [] if plug.is_file else plugins.names(kind)
        if plug.is_file or plug.name in known:
            raise ExperimentError(str(error), path=f"{path}.name") from None
        near = nearest(plug.name, known)
        listed = "" if near else f"; there are: {', '.join(known)}"
        message = f'there is no {kind} "{plug.name}"{listed}'
        raise ExperimentError(message, path=f"{path}.name", suggestion=near) from None


def _check_compressor(plug: PlugIn, path: str, files: Iterable[SourceFile]) -> PlugIn:
    """A compressor's table; where it takes `of`, that is a list of compressors, by table or by name."""
    target = _target("compressor", plug, path, files)
    known = options_of(target)
    options = {key: value for key, value in plug.options.items() if key != "of" or key not in known}
    given = len(options) < len(plug.options)
    plain = {key: option for key, option in known.items() if not (given and key == "of")}
    options = check_options(options, plain, path=path, owner=plug.name)
    if given:
        options["of"] = _check_parts(plug.options["of"], f"{path}.of")
    _try_to_make(configure, {"operator": target, "options": options, "name": plug.name}, plug, path)
    return PlugIn(plug.name, options)


def _check_parts(parts: Any, path: str) -> list[dict[str, Any]]:
    if not isinstance(parts, list):
        raise ExperimentError(f'must be a list like [{{ name = "natural" }}], not {shown(parts)}', path=path)
    return [_check_part(part, path) for part in parts]


def _check_part(part: Any, path: str) -> dict[str, Any]:
    table = {"name": part} if isinstance(part, str) else part
    if not isinstance(table, Mapping) or not isinstance(table.get("name"), str):
        raise ExperimentError(f"each of it must be a table with a name, not {shown(part)}", path=path)
    plug = PlugIn(canonical(table["name"]), {key: value for key, value in table.items() if key != "name"})
    if plug.is_file:
        raise ExperimentError(f'a file of your own ("{plug.name}") cannot be part of another compressor', path=path)
    return _check_compressor(plug, path, ()).to_dict()


def _check_regularizer(plug: PlugIn) -> PlugIn:
    path = "model.regularizer"
    if plug.name not in REGULARIZERS:
        near = nearest(plug.name, REGULARIZERS)
        listed = "" if near else f"; there are: {', '.join(REGULARIZERS)}"
        message = f'there is no regularizer "{plug.name}"{listed}'
        raise ExperimentError(message, path=f"{path}.name", suggestion=near)
    known = options_of(REGULARIZERS[plug.name])
    return PlugIn(plug.name, check_options(plug.options, known, path=path, owner=plug.name))


def _try_to_make(make: Any, given: Mapping[str, Any], plug: PlugIn, path: str) -> None:
    """What a dataclass refuses in its own `__post_init__` is the user's input too; all else it raises is a mistake."""
    try:
        with in_code_of(plug):
            make(**given)
    except UserCodeError as error:
        if isinstance(error.__cause__, ValueError):
            raise ExperimentError(str(error.__cause__), path=path) from None
        raise
    except (ValueError, InputError) as error:
        raise ExperimentError(str(error), path=path) from None
