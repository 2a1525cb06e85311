"""Runs as a worker holds them: made ready from a Setup, kept for a while, so that a master that returns finds them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from fl_core.errors import FlspanError
from fl_core.execution.body_limits import body_limit
from fl_core.execution.choice import Decision
from fl_core.execution.site import Site
from fl_core.experiment.schema import Experiment
from fl_core.problem import Problem, Shape, assemble
from fl_core.session import with_problem
from fl_core.shards import Shards
from protocol import messages
from protocol.errors import MessageError
from protocol.fields import Report
from protocol.frames import Limits

logger = logging.getLogger("flworker")

_KEPT = 4
"""Problems kept when their run is over or its master gone: setting up the same run again is then immediate."""


@dataclass(frozen=True)
class PreparedRun:
    """A run this worker can take tasks of; no body of it is larger than ``body_limit`` bytes."""

    site: Site
    has_data: bool
    body_limit: int = Limits().body_bytes


@dataclass(frozen=True)
class Preparation:
    """The outcome of a Setup: the run, or why not."""

    run: PreparedRun | None
    error: Report | None = None


class Runs:
    """Makes runs ready, and keeps the data of the last few.

    Args:
        data_root: where data sets are looked for first.
        user_code: whether a master may ship the user's own files.
    """

    def __init__(self, data_root: Path | None, user_code: bool) -> None:
        self._data_root = data_root
        self._user_code = user_code
        self._sent: OrderedDict[str, Shards] = OrderedDict()  # by the data's digest: what masters have sent
        self._problems: OrderedDict[str, tuple[Problem, bool]] = OrderedDict()

    def prepare(self, setup: messages.Setup) -> Preparation:
        """Import the user's files, load the data or get ready to receive it, build the model once.

        Raises:
            MessageError: the Setup holds no experiment.
            FlspanError: the experiment cannot be run here.
        """
        if setup.sources and not self._user_code:
            report = Report("refused", "this worker runs no user code (--no-user-code)")
            return Preparation(None, report)
        for source in setup.sources:
            if hashlib.sha256(source.text.encode()).hexdigest() != source.sha256:
                raise MessageError(f"the text of {source.name} is not what its sha256 says")
            logger.info("user code %s (%s) sha256 %s", source.name, source.role, source.sha256)
        body = _body(setup)
        tables = body["experiment"]
        tables["sources"] = [
            {"role": s.role, "name": s.name, "sha256": s.sha256, "text": s.text} for s in setup.sources
        ]
        experiment = Experiment.from_dict(tables)
        problem, has_data = self._problem(setup, experiment, body)
        session = with_problem(experiment, problem)
        decided = None if setup.fusing is None else msgspec.convert(msgspec.structs.asdict(setup.fusing), Decision)
        site = Site(setup.run, problem, session.algorithm, session.work, session.user_files(), decided)
        return Preparation(PreparedRun(site, has_data, body_limit(session, body["shard_bytes"])))

    def _problem(self, setup: messages.Setup, experiment: Experiment, body: Mapping[str, Any]) -> tuple[Problem, bool]:
        key = hashlib.sha256(setup.experiment + setup.data_sha256.encode()).hexdigest()
        key += "".join(source.sha256 for source in setup.sources)
        if key in self._problems and self._problems[key][1]:
            self._problems.move_to_end(key)
            return self._problems[key]
        try:
            problem = assemble(experiment, self._data_root)
            has_data = problem.shards.digest() == setup.data_sha256
            why = "it loaded other data than the master's"
        except FlspanError as error:
            has_data, why = False, str(error)
        if not has_data:
            logger.info("run %s: the data comes from the master (%s)", setup.run, why)
            problem = Problem(experiment, _shape(body), self._shards(setup.data_sha256, body["clients"]), None, None)
        self._problems[key] = (problem, has_data)
        while len(self._problems) > _KEPT:
            self._problems.popitem(last=False)
        return problem, has_data

    def _shards(self, digest: str, clients: int) -> Shards:
        """Of data with this digest: what an earlier run has been sent need not be sent again."""
        if digest not in self._sent or self._sent[digest].n != clients:
            self._sent[digest] = Shards(clients)
        self._sent.move_to_end(digest)
        while len(self._sent) > _KEPT:
            self._sent.popitem(last=False)
        return self._sent[digest]


def _body(setup: messages.Setup) -> dict[str, Any]:
    try:
        body = json.loads(setup.experiment)
        _shape(body)
        return {
            "experiment": dict(body["experiment"]),
            "shape": body["shape"],
            "clients": int(body["clients"]),
            "shard_bytes": int(body["shard_bytes"]),
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise MessageError(f"a Setup without a legible experiment: {error}") from error


def _shape(body: Mapping[str, Any]) -> Shape:
    shape = body["shape"]
    classes = shape["classes"]
    return Shape(
        tuple(int(k) for k in shape["inputs"]),
        int(shape["outputs"]),
        None if classes is None else int(classes),
    )
