"""What happens in a run, as one stream of frozen records; every observer reads it, none can change the run.

Screen, text log, metrics.jsonl, events.jsonl and trackers are observers (`master.event_stream`). A stored
stream (`encode`, `decode`) replays any of them. `time_s` is seconds since the epoch; a field that was not
measured is None, a metric that was not measured is absent.

Rules for whoever emits:
- `WorkerJoined.name` is the name an executor keeps over its incarnations; TaskFinished and WorkerStatus
  use it too.
- each RoundFinished with `evaluates` is followed, sooner or later, by Evaluated of the same round, and no
  other Evaluated exists. Round 0 is the initial model: RoundFinished(round=0, metrics={}, evaluates=True).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import msgspec

from protocol.errors import InputError

Metrics = dict[str, float | int]


class RunStarted(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A run begins, or goes on after `first_round - 1` rounds. `position` of `runs` counts a sweep from 1."""

    time_s: float
    run: str
    name: str
    algorithm: str
    rounds: int
    clients: int
    per_round: int
    d: int
    seed: int
    digest: str
    folder: str
    label: str = ""
    model: str = ""
    data: str = ""
    uplink: str = ""
    first_round: int = 1
    position: int = 1
    runs: int = 1


class WorkerJoined(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A worker, or a local pool (address "local"), can take tasks for the first time."""

    time_s: float
    name: str
    address: str
    slots: int
    devices: tuple[str, ...]


class WorkerReturned(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A worker that was lost is back, as a new incarnation."""

    time_s: float
    name: str
    address: str
    slots: int
    devices: tuple[str, ...]


class WorkerLost(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A worker is gone; its tasks run elsewhere."""

    time_s: float
    name: str
    reason: str


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How a worker is, about once a second. Bytes are cumulative over its life in this session."""

    time_s: float
    name: str
    slots: int
    busy: int
    state: str  # "working" | "idle" | "draining" | "silent" | whatever the link says
    memory_bytes: int | None = None  # of its process, in RAM
    gpu_memory_bytes: int | None = None  # held by torch on its GPUs
    sent_bytes: int | None = None
    received_bytes: int | None = None
    last_heard_s: float | None = None  # when the last byte of it arrived


class WaitingForWorkers(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """`tasks` wait and nobody lives to run them."""

    time_s: float
    tasks: int


class Paused(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """No new task is handed out until Resumed."""

    time_s: float


class Resumed(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Tasks are handed out again."""

    time_s: float


class Stopping(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The run will end early, with everything saved."""

    time_s: float
    reason: str


class RoundStarted(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The clients were drawn and cut into tasks; both are counts."""

    time_s: float
    run: str
    round: int
    clients: int
    tasks: int


class TaskFinished(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A result was counted. `executor` is the name of its worker; `seconds_s` is what it took there."""

    time_s: float
    run: str
    round: int
    task: int
    executor: str
    seconds_s: float


class FusingDecided(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An executor runs a run's clients together from now on, or one by one; and why.

    `fused_s`, `one_by_one_s`: what a cohort took; 0 where it was not timed.
    """

    time_s: float
    run: str
    executor: str
    fused: bool
    reason: str
    fused_s: float
    one_by_one_s: float


class RoundFinished(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The server has stepped. `evaluates`: Evaluated of this round will follow."""

    time_s: float
    run: str
    round: int
    metrics: Metrics
    evaluates: bool = False


class Evaluated(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The model after `round` was measured."""

    time_s: float
    run: str
    round: int
    metrics: Metrics


class CheckpointSaved(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The run can be resumed after this round."""

    time_s: float
    run: str
    round: int
    path: str


class Warned(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Something the user should read. `text` is one sentence or more."""

    time_s: float
    text: str


class Noted(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Something good to know that needs no action: the step a theorem gave, a run that is finished already."""

    time_s: float
    text: str


class RunFinished(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The run is over: `reason` is "finished", "stopped" or "failed"; `text` says why when it failed."""

    time_s: float
    run: str
    reason: str
    summary: Metrics
    text: str = ""


Event = (
    RunStarted
    | WorkerJoined
    | WorkerReturned
    | WorkerLost
    | WorkerStatus
    | WaitingForWorkers
    | Paused
    | Resumed
    | Stopping
    | RoundStarted
    | TaskFinished
    | FusingDecided
    | RoundFinished
    | Evaluated
    | CheckpointSaved
    | Warned
    | Noted
    | RunFinished
)
KINDS: Mapping[str, type[Event]] = {kind.__name__: kind for kind in get_args(Event)}


def encode(event: Event) -> dict[str, Any]:
    """A dict for JSON: the fields, and `event`, the name of the kind."""
    return {"event": type(event).__name__, **msgspec.structs.asdict(event)}


def decode(stored: Mapping[str, Any]) -> Event:
    """The event of `encode`'s dict, read back from JSON. InputError: it is none, or a field is wrong.

    Fields this version does not know are left out, so a stream of a newer version can still be watched.
    """
    rest = dict(stored)
    name = rest.pop("event", None)
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise InputError(f"no event is called {name!r}; was this file written by another version of flspan?")
    try:
        return msgspec.convert(rest, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"an event {name} is not as it should be: {error}") from error
