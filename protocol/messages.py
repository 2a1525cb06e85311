"""The messages: what master and worker say to each other.

The class's name is the message's type on the wire. Tensor bytes are not in here: they travel in the body of a
:class:`BulkMessage`, one buffer for each entry its fields imply, in the order of
:meth:`BulkMessage.buffer_sizes`.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import force_setattr

from protocol.fields import (
    Bytes,
    Clients,
    Count,
    Digest,
    Field,
    FusingChoice,
    Name,
    Nonce,
    Report,
    SkippedClient,
    Source,
    Summed,
    Tensors,
    Text,
    Weightings,
    WorkerInfo,
    clipped,
)


class Message(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag=True):
    """The root of all messages; the class's name is its type on the wire."""


class BulkMessage(Message, frozen=True):
    """A message that carries buffers."""

    def buffer_sizes(self) -> list[int]:
        """Bytes of each buffer that must come with this message (uncompressed)."""
        raise NotImplementedError


# --- the handshake: the only messages that can be decoded before both sides have proved themselves --------


class Hello(Message, frozen=True):
    """Master, first: what it speaks and offers. A visitor looks at the Welcome and leaves: it brings no work."""

    version: Count
    role: Literal["master", "visitor"]
    nonce: Nonce
    codecs: Annotated[list[Name], Meta(max_length=8)]
    byteorder: Literal["little", "big"]


class Challenge(Message, frozen=True):
    """Worker, second: the same of itself."""

    version: Count
    role: Literal["worker"]
    nonce: Nonce
    codecs: Annotated[list[Name], Meta(max_length=8)]
    byteorder: Literal["little", "big"]


class Proof(Message, frozen=True):
    """Master, third: proof that it holds the secret."""

    mac: Nonce


class Welcome(Message, frozen=True):
    """Worker, fourth: its proof, and what it is."""

    mac: Nonce
    worker: WorkerInfo


# --- either side ------------------------------------------------------------------------------------------


class Ping(Message, frozen=True):
    """A heartbeat; ``t`` is the sender's clock in seconds, and comes back in the Pong."""

    t: Annotated[float, Meta(ge=0)]

    def __post_init__(self) -> None:
        if not math.isfinite(self.t):
            raise ValueError("t must be finite")


class Pong(Message, frozen=True):
    """The answer to a Ping, and the sender's memory where it says so: in RAM, and held on its GPUs."""

    t: Annotated[float, Meta(ge=0)]
    memory_bytes: Bytes | None = None
    gpu_memory_bytes: Bytes | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.t):
            raise ValueError("t must be finite")


class Bye(Message, frozen=True):
    """The sender leaves and will send nothing more."""

    reason: Text

    def __post_init__(self) -> None:
        force_setattr(self, "reason", clipped(self.reason, 4096))


# --- from the master --------------------------------------------------------------------------------------


class Setup(Message, frozen=True):
    """A run begins: its resolved experiment (JSON), the user's files, the digest of the data.

    ``fusing``: what such a worker has chosen for this run before.
    """

    run: Name
    experiment: Annotated[bytes, Meta(max_length=768 << 10)]
    sources: Annotated[list[Source], Meta(max_length=64)]
    data_sha256: Digest
    fusing: FusingChoice | None = None


class Shard(BulkMessage, frozen=True):
    """The data of one client, for a worker that lacks it."""

    run: Name
    client: Count
    tensors: Tensors

    def buffer_sizes(self) -> list[int]:
        return [tensor.nbytes for tensor in self.tensors]


class Broadcast(BulkMessage, frozen=True):
    """The model and what goes with it: once a round and worker. ``digest`` names all of it.

    ``digests`` are those of the tensors that come with it, one each. Those in ``held`` (name -> digest) the worker has
    from this broadcast's two predecessors, so their bytes do not travel again.
    """

    run: Name
    round: Count
    digest: Digest
    scalars: Annotated[dict[Name, bool | int | float], Meta(max_length=1024)]
    tensors: Tensors
    digests: Annotated[list[Digest], Meta(max_length=8192)] = msgspec.field(default_factory=list)
    held: Annotated[dict[Name, Digest], Meta(max_length=8192)] = msgspec.field(default_factory=dict)

    def buffer_sizes(self) -> list[int]:
        return [tensor.nbytes for tensor in self.tensors]


class Task(BulkMessage, frozen=True):
    """One cohort to run; the tensors are its clients' memory. ``sums``: the fields whose sums are enough.

    ``held``: (position in ``clients``, round) of those whose memory the worker has kept since it ran them in that
    round; the tensors have no rows of theirs.
    """

    run: Name
    round: Count
    task: Count
    attempt: Count
    clients: Clients
    tensors: Tensors
    sums: Annotated[dict[Name, Weightings], Meta(max_length=256)] = msgspec.field(default_factory=dict)
    held: Annotated[list[tuple[Count, Count]], Meta(max_length=65536)] = msgspec.field(default_factory=list)

    def buffer_sizes(self) -> list[int]:
        return [tensor.nbytes for tensor in self.tensors]


class Cancel(Message, frozen=True):
    """The results of these (task, attempt) are not wanted; this may overtake the very task it names."""

    run: Name
    round: Count
    tasks: Annotated[list[tuple[Count, Count]], Meta(max_length=8192)]


class Forget(Message, frozen=True):
    """The run is over: free what is kept for it."""

    run: Name


# --- from the worker --------------------------------------------------------------------------------------


class Ready(Message, frozen=True):
    """The answer to Setup: whether the worker has the data itself, or why it cannot take part.

    ``held``: clients whose Shard it holds already, from a run over the same data.
    """

    run: Name
    has_data: bool
    error: Report | None = None
    held: Clients = msgspec.field(default_factory=list)


class Result(BulkMessage, frozen=True):
    """What a cohort replied: a buffer a field, then one a tensor (memories, dense fields, those of ``sums``).

    ``metrics``: a value a client. ``skipped``: clients of the task that are not among ``clients``.
    ``fusing``: what the worker has chosen for the run; once, when it has.
    """

    run: Name
    round: Count
    task: Count
    attempt: Count
    clients: Clients
    fields: Annotated[list[Field], Meta(max_length=256)]
    tensors: Tensors
    metrics: Annotated[dict[Name, Annotated[list[float], Meta(max_length=65536)]], Meta(max_length=256)] = (
        msgspec.field(default_factory=dict)
    )
    sums: Annotated[list[Summed], Meta(max_length=256)] = msgspec.field(default_factory=list)
    skipped: Annotated[list[SkippedClient], Meta(max_length=65536)] = msgspec.field(default_factory=list)
    fusing: FusingChoice | None = None

    def buffer_sizes(self) -> list[int]:
        return [sum(field.sizes) for field in self.fields] + [tensor.nbytes for tensor in self.tensors]


class Failure(Message, frozen=True):
    """A cohort could not be run: the user's code, or ours, raised."""

    run: Name
    round: Count
    task: Count
    attempt: Count
    report: Report


class Drain(Message, frozen=True):
    """The worker is about to leave: no new tasks, please. What runs will still be answered."""


HANDSHAKE: tuple[type[Message], ...] = (Hello, Challenge, Proof, Welcome)
WORKING: tuple[type[Message], ...] = (
    *(Ping, Pong, Bye, Setup, Shard, Broadcast, Task, Cancel, Forget),
    *(Ready, Result, Failure, Drain),
)
URGENT: frozenset[type[Message]] = frozenset({Ping, Pong, Cancel, Drain})
"""Messages that may pass between the pieces of another's body; all others keep the order of sending."""
