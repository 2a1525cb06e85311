"""What is checked: a file (or one of our own plug-ins) with its options, and the small experiments it is put into."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from compressors.build import configure
from compressors.compressor import Compressor
from fl_core import plugins
from fl_core.errors import InputError, PlugInError, nearest
from fl_core.experiment.building import build
from fl_core.experiment.checking import checked
from fl_core.experiment.reading import Override, parse_override
from fl_core.experiment.schema import SourceFile, canonical
from fl_core.experiment.sweep import assign
from fl_core.options import check_options, options_of
from fl_core.sampling import sample_clients
from fl_core.session import Session, open_session

CLIENTS = 6
UPLINKS: dict[str, dict[str, Any]] = {"identity": {"name": "identity"}, "randk": {"name": "randk", "k": "34%"}}


@dataclass(frozen=True)
class Scenario:
    """A small experiment: least squares, n = 6 clients with 12 samples each, d = 12, every f_i with L = 1, mu = 0.2."""

    steps: int = 1
    sampling: Literal["full", "uniform", "poisson"] = "full"
    uplink: Literal["identity", "randk"] = "identity"
    dtype: Literal["float32", "float64"] = "float64"
    gradient: Literal["full", "minibatch"] = "full"
    rounds: int = 6
    server_lr: float | str | None = None

    def __str__(self) -> str:
        who = {"full": "all clients", "uniform": "3 of 6 clients", "poisson": "Poisson sampling"}[self.sampling]
        steps = "1 local step" if self.steps == 1 else f"{self.steps} local steps"
        return f"{steps}, {who}, {self.uplink}, {self.dtype}"

    def tables(self) -> dict[str, Any]:
        """The experiment's tables, but for the algorithm."""
        one = self.steps == 1
        return {
            "name": "contract",
            "rounds": self.rounds,
            "seed": self._seed(),
            "data": {"name": "quadratic", "d": 12, "L": 1.0, "mu": 0.2, "samples_per_client": 12, "spectrum": "each"},
            "model": {"name": "linear", "bias": False, "loss": "mse", "dtype": self.dtype},
            "clients": {"total": CLIENTS, "per_round": self._per_round(), "sampling": self.sampling},
            "local": {
                "steps": self.steps,
                "gradient": self.gradient,
                "batch_size": 5,
                "optimizer": {"name": "sgd", "lr": 1.0 if one else 0.2},
            },
            "server": {"optimizer": {"name": "sgd", "lr": self.server_lr or (0.25 if one else 0.5)}},
            "uplink": dict(UPLINKS[self.uplink]),
            "evaluate": {"metrics": []},
            "execution": {"cohort": 2},
        }

    def _per_round(self) -> int:
        return {"full": CLIENTS, "uniform": 3, "poisson": 2}[self.sampling]

    def _seed(self) -> int:
        """A seed under which Poisson sampling has a round with nobody in it, in the middle of the run."""
        if self.sampling != "poisson":
            return 1
        for seed in range(1, 1000):
            sizes = [len(sample_clients("poisson", CLIENTS, 2, seed, t)) for t in range(1, self.rounds + 1)]
            if 0 in sizes[1:-1] and sizes[0] > 0 and sizes[-1] > 0:
                return seed
        raise AssertionError("no seed in 1..999 has an empty round")


@dataclass(frozen=True)
class AlgorithmSubject:
    """An algorithm to check.

    Attributes:
        name: the file's name, or that of one of ours.
        settings: `--set` with a dot: keys of the experiment that are laid over every scenario.
    """

    name: str
    options: Mapping[str, Any]
    source: SourceFile | None = None
    settings: Sequence[Override] = ()

    @property
    def kind(self) -> Any:
        """The class."""
        return plugins.resolve("algorithm", self.name, () if self.source is None else (self.source,))

    def session(self, scenario: Scenario) -> Session:
        """The scenario with this algorithm, ready to run. InputError: the algorithm or an option refuses it."""
        tables = scenario.tables() | {"algorithm": {"name": self.name, **self.options}}
        for override in self.settings:
            assign(tables, override.path, override.value)
        if self.source is not None:
            tables["sources"] = [_as_table(self.source)]
        return open_session(checked(build(tables)))


@dataclass(frozen=True)
class CompressorSubject:
    """A compressor to check."""

    name: str
    options: Mapping[str, Any]
    source: SourceFile | None = None

    @property
    def kind(self) -> Any:
        """The class."""
        return plugins.resolve("compressor", self.name, () if self.source is None else (self.source,))

    def build(self) -> Compressor:
        """The operator. InputError: an option is unknown or out of range."""
        kind: Any = self.kind
        options = dict(self.options)
        if dataclasses.is_dataclass(kind):  # else configure() says that it must be one
            plain = dict(options_of(cast("type[Compressor]", kind)))
            parts = plain.pop("of", None)  # a list of compressors, which configure() builds
            given = {name: value for name, value in options.items() if name != "of" or parts is None}
            options |= check_options(given, plain, path="uplink", owner=self.name)
        return configure(kind, options, name=self.name)


def read_subject(named: str, sets: Sequence[str] = ()) -> AlgorithmSubject | CompressorSubject:
    """What `named` is: a file with exactly one algorithm or one compressor, or the name of one of ours.

    Args:
        sets: texts `option=value` for its own options, `table.key=value` for the experiments around it.

    Raises:
        InputError: no such file or name, it holds neither, or both.
        UserCodeError: the file raised while it was imported.
    """
    overrides = [parse_override(text) for text in sets]
    options = {override.path[0]: override.value for override in overrides if len(override.path) == 1}
    settings = [override for override in overrides if len(override.path) > 1]
    kind, name, source = _found(named)
    if kind == "algorithm":
        return AlgorithmSubject(name, options, source, settings)
    if settings:
        raise InputError(f"--set {settings[0].text}: a compressor has no experiment around it; name its option alone")
    return CompressorSubject(name, options, source)


def _found(named: str) -> tuple[str, str, SourceFile | None]:
    if not named.endswith(".py"):
        ours = {kind: plugins.names(kind) for kind in ("algorithm", "compressor")}
        for kind, names in ours.items():
            if canonical(named) in names:
                return kind, canonical(named), None
        near = nearest(named, [name for names in ours.values() for name in names])
        hint = f'did you mean "{near}"?' if near else "name a file that ends in .py, or one of `flctl list algorithms`"
        raise InputError(f'there is no algorithm or compressor "{named}"; {hint}')
    path = Path(named)
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{named} cannot be read: {error}") from None
    complaints = {}
    for kind, role in (("algorithm", "algorithm"), ("compressor", "uplink")):
        source = SourceFile.of(role, path.name, text)  # type: ignore[arg-type]  # both are roles
        try:
            plugins.resolve(kind, path.name, (source,))
        except PlugInError as error:
            complaints[kind] = str(error)
        else:
            return kind, path.name, source
    several = [text for text in complaints.values() if "has none" not in text]
    raise InputError(several[0] if several else f"{path.name} holds neither an Algorithm nor a Compressor (a subclass)")


def _as_table(source: SourceFile) -> dict[str, str]:
    return {"role": source.role, "name": source.name, "sha256": source.sha256, "text": source.text}


__all__ = ["CLIENTS", "UPLINKS", "AlgorithmSubject", "CompressorSubject", "Scenario", "read_subject"]
