"""What an experiment file may say: one frozen record a table.

`building.build` makes an `Experiment` of a dictionary; `Experiment.to_dict` gives that dictionary back, with
every default filled in, so that what is stored, sent to a worker, hashed and read again is one and the same
thing.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct, structs

from fl_core.options import Count, Percentage, spelling

Role: TypeAlias = Literal["data", "model", "algorithm", "uplink", "downlink"]
CohortSize: TypeAlias = Annotated[int, Meta(ge=1, le=10_000)]
"""Clients of one task; what is said of each of them in the header of a message must fit into 1 MiB."""
ROLES: tuple[Role, ...] = ("data", "model", "algorithm", "uplink", "downlink")

EVALUATED_METRICS = ("f", "grad_norm", "distance", "loss", "accuracy", "accuracy_top5")
"""Metrics that cost an evaluation: present in the rounds that `[evaluate] every` picks."""
CLIENT_METRICS = ("client_f", "client_grad_norm", "client_accuracy")
"""Metrics of every client, evaluated like those; what is stored are their quantiles: `client_f_min`, `_q10`, …."""
ROUND_METRICS = (
    *("round", "clients", "loss_train", "direction_norm", "oracle_calls", "bits_up", "bits_down"),
    *("wire_bytes_sent", "wire_bytes_received", "gpu_memory_bytes", "round_s", "elapsed_s"),
)
"""Metrics every round has."""

Metric: TypeAlias = Literal[
    "f", "grad_norm", "distance", "loss", "accuracy", "accuracy_top5",
    "client_f", "client_grad_norm", "client_accuracy",
    "round", "clients", "loss_train", "direction_norm", "oracle_calls", "bits_up", "bits_down",
    "wire_bytes_sent", "wire_bytes_received", "gpu_memory_bytes", "round_s", "elapsed_s",
]  # fmt: skip


def canonical(name: str) -> str:
    """The one spelling of a plug-in's name: lower case, hyphens. The name of a user's file is left alone."""
    return name if name.endswith(".py") else spelling(name)


class PlugIn(Struct, frozen=True):
    """A plug-in and its options: in the file one table, `{ name = "randk", k = "10%" }`."""

    name: str
    options: dict[str, Any] = {}

    @property
    def is_file(self) -> bool:
        """Whether it is the user's own file."""
        return self.name.endswith(".py")

    @property
    def stem(self) -> str:
        """The name as a Python file of ours has it: underscores."""
        return self.name.replace("-", "_")

    def to_dict(self) -> dict[str, Any]:
        """The table: name and options side by side."""
        return {"name": self.name, **self.options}


class SourceFile(Struct, frozen=True):
    """One of the user's own files, with its text: what travels to a worker, which never sees a path."""

    role: Role
    name: str
    sha256: str
    text: str

    @classmethod
    def of(cls, role: Role, name: str, text: str) -> SourceFile:
        """The source with its hash (of the UTF-8 text)."""
        return cls(role, name, hashlib.sha256(text.encode()).hexdigest(), text)


class DataTable(Struct, frozen=True):
    """[data]: the data set, and how it is split over the clients if it does not come in clients."""

    plug: PlugIn
    partition: PlugIn | None = None


class ModelTable(Struct, frozen=True):
    """[model]: the model, and what makes f_i of it: loss, regularizer (in every f_i), type of numbers."""

    plug: PlugIn
    loss: Literal["cross_entropy", "mse", "logistic"] = "cross_entropy"
    regularizer: PlugIn = PlugIn("none")
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32"


class ClientsTable(Struct, frozen=True):
    """[clients]: how many there are, and how many take part in a round (on average, with "poisson").

    `client_memory`: where the master keeps what clients remember between rounds. "device" is where they run: the RAM
    on the CPU.
    """

    total: Count
    per_round: Count = 0  # 0 only until `build` has put the total there
    sampling: Literal["uniform", "poisson", "full"] = "uniform"
    client_memory: Literal["ram", "disk", "device"] = "ram"


class LocalTable(Struct, frozen=True):
    """[local]: the client's work in one round. Exactly one of `epochs` and `steps` is a number."""

    epochs: Count | None = None
    steps: Count | None = None
    batch_size: Count = 32
    gradient: Literal["full", "minibatch", "nice", "multi", "uniform"] = "minibatch"
    tau: Count | Percentage | None = None
    optimizer: PlugIn = PlugIn("sgd", {"lr": 0.1})


class ServerTable(Struct, frozen=True):
    """[server]: the optimizer that takes G as its gradient (lr a number or "theory"), and its schedule."""

    optimizer: PlugIn = PlugIn("sgd", {"lr": 1.0})
    schedule: PlugIn = PlugIn("constant")


class EvaluateTable(Struct, frozen=True):
    """[evaluate]: every how many rounds, and what."""

    every: Count = 1
    metrics: tuple[Metric, ...] = ("loss", "accuracy")


class ExecutionTable(Struct, frozen=True):
    """[execution]: what may change rounding, and so is the experiment's choice and never the cluster's.

    `precision`: "bfloat16" puts the forward of local training (and so its backward) under torch.autocast; parameters,
    the loss, the optimizer, messages and evaluation stay float32. `tf32`: whether a GPU may round the factors of
    float32 products to 10 bits.
    """

    cohort: CohortSize | Literal["auto"] = "auto"
    fuse: Literal["auto", "never", "always"] = "auto"
    intra_op_threads: Count = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    tf32: bool = False


class CheckpointTable(Struct, frozen=True):
    """[checkpoint]: every how many rounds the run is saved so that it can go on."""

    every: Count = 10


class Experiment(Struct, frozen=True, kw_only=True):
    """One run, complete: with it and the data, the numbers are determined."""

    name: str
    rounds: Count
    seed: int = 0
    label: str = ""
    on_error: Literal["stop", "skip"] = "stop"
    stop: dict[Metric, float] = {}
    data: DataTable
    model: ModelTable
    clients: ClientsTable
    local: LocalTable = LocalTable()
    server: ServerTable = ServerTable()
    algorithm: PlugIn
    uplink: PlugIn = PlugIn("identity")
    downlink: PlugIn = PlugIn("identity")
    evaluate: EvaluateTable = EvaluateTable()
    execution: ExecutionTable = ExecutionTable()
    checkpoint: CheckpointTable = CheckpointTable()
    sources: tuple[SourceFile, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The canonical dictionary: the file's tables with defaults filled in, and `sources`. JSON-able."""
        tables = {field: _table(getattr(self, field)) for field in self.__struct_fields__ if field != "sources"}
        tables["sources"] = [structs.asdict(source) for source in self.sources]
        return {key: value for key, value in tables.items() if value not in ("", {}, [])}

    @classmethod
    def from_dict(cls, tables: dict[str, Any]) -> Experiment:
        """The experiment that `to_dict` made this of. Raises ExperimentError if it is none."""
        from fl_core.experiment.building import build

        return build(tables)

    def digest(self) -> str:
        """Ten hexadecimal digits that name what is computed: equal for equal experiments, label aside."""
        tables = self.to_dict()
        tables.pop("label", None)
        tables["sources"] = [[source.role, source.name, source.sha256] for source in self.sources]
        text = json.dumps(tables, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def to_toml(self) -> str:
        """The resolved file: it runs as it is, with the user's own files beside it."""
        from fl_core.experiment.writing import toml_of

        return toml_of(self)

    def source(self, role: Role, name: str) -> SourceFile | None:
        """The user's file of that role and name."""
        return next((s for s in self.sources if (s.role, s.name) == (role, Path(name).name)), None)


def _table(value: Any) -> Any:
    """A record as its table: plug-ins flattened, absent values left out."""
    if isinstance(value, PlugIn):
        return value.to_dict()
    if isinstance(value, Struct):
        pairs = ((field, getattr(value, field)) for field in value.__struct_fields__)
        flat: dict[str, Any] = {}
        for field, item in pairs:
            if field == "plug":
                flat.update(_table(item))
            elif item is not None:
                flat[field] = _table(item)
        return flat
    return list(value) if isinstance(value, tuple) else value


__all__ = [
    "CLIENT_METRICS",
    "EVALUATED_METRICS",
    "ROLES",
    "ROUND_METRICS",
    "CheckpointTable",
    "ClientsTable",
    "DataTable",
    "EvaluateTable",
    "ExecutionTable",
    "Experiment",
    "LocalTable",
    "Metric",
    "ModelTable",
    "PlugIn",
    "Role",
    "ServerTable",
    "SourceFile",
    "canonical",
]
