"""The records inside messages, and the type and range of every field: one place for both.

msgspec checks these while it decodes; a value out of range or a list that is too long is refused before it is
built.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct
from msgspec.structs import force_setattr

Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**53)]
Bytes: TypeAlias = Annotated[int, Meta(ge=0, le=2**53)]
Name: TypeAlias = Annotated[str, Meta(max_length=256)]
Text: TypeAlias = Annotated[str, Meta(max_length=4096)]
Digest: TypeAlias = Annotated[str, Meta(max_length=128)]
Nonce: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
Codec: TypeAlias = Literal["none", "lz4"]
TRACEBACK_CHARACTERS = 64 << 10
MESSAGE_CHARACTERS = 4096

DTYPE_BYTES = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
}
"""Bytes of one element of each dtype that may travel."""


class Record(Struct, frozen=True, forbid_unknown_fields=True):
    """The root of the records; an unknown field is an error in each."""


class Buffer(Record, frozen=True):
    """One buffer of a body: ``nbytes`` on the wire (padding not counted), ``raw_nbytes`` when decoded."""

    nbytes: Bytes
    raw_nbytes: Bytes
    codec: Codec = "none"


class TensorSpec(Record, frozen=True):
    """Name, dtype and shape of a tensor whose bytes are in a buffer (C-contiguous, little endian)."""

    name: Name
    dtype: Literal["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"]
    shape: Annotated[list[Count], Meta(max_length=16)]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


Weightings: TypeAlias = Annotated[list[Literal["one", "size"]], Meta(min_length=1, max_length=2)]
"""By which weights replies are added: 1, or the clients' numbers of samples."""

Tensors: TypeAlias = Annotated[list[TensorSpec], Meta(max_length=8192)]
Clients: TypeAlias = Annotated[list[Count], Meta(max_length=65536)]


class WorkerInfo(Record, frozen=True):
    """What a worker says of itself. ``incarnation`` is new for each process, so a restart is seen as one.

    From ``version`` on it is how the worker is at this moment: ``busy`` tasks of ``run`` for ``master``,
    ``tasks`` finished since its start ``uptime_s`` seconds ago.
    """

    incarnation: Name
    name: Name
    pid: Count
    slots: Annotated[int, Meta(ge=1, le=65536)]
    devices: Annotated[list[Name], Meta(max_length=64)]
    torch: Name
    python: Name
    user_code: bool
    version: Name = ""
    state: Literal["idle", "serving", "draining"] = "idle"
    master: Name = ""
    run: Name = ""
    busy: Count = 0
    tasks: Count = 0
    uptime_s: Count = 0


class Source(Record, frozen=True):
    """A file of the user's, shipped as text: what it is for, its name, its digest, its text."""

    role: Name
    name: Name
    sha256: Digest
    text: Annotated[str, Meta(max_length=512 << 10)]


def clipped(text: str, limit: int, keep_end: bool = False) -> str:
    """At most ``limit`` characters of ``text``, all of which UTF-8 can carry."""
    text = text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate cannot travel
    if len(text) <= limit:
        return text
    return "… " + text[2 - limit :] if keep_end else text[: limit - 2] + " …"


class FusingChoice(Record, frozen=True):
    """Whether a process runs a run's clients together, why, and what a cohort took (seconds; 0: not timed)."""

    fused: bool
    reason: Text
    fused_s: Annotated[float, Meta(ge=0)] = 0.0
    one_by_one_s: Annotated[float, Meta(ge=0)] = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.fused_s) and math.isfinite(self.one_by_one_s)):
            raise ValueError("times must be finite")
        force_setattr(self, "reason", clipped(self.reason, MESSAGE_CHARACTERS))


class SkippedClient(Record, frozen=True):
    """A client of a task that could not take part, and why; what is too long is cut when it is made."""

    client: Count
    text: Text

    def __post_init__(self) -> None:
        force_setattr(self, "text", clipped(self.text, MESSAGE_CHARACTERS))


class Report(Record, frozen=True):
    """An error as text; what is too long is cut when it is made, a traceback at its start."""

    kind: Name
    message: Annotated[str, Meta(max_length=MESSAGE_CHARACTERS)]
    file: Text | None = None
    line: Count | None = None
    client: Count | None = None
    traceback: Annotated[str, Meta(max_length=TRACEBACK_CHARACTERS)] = ""

    def __post_init__(self) -> None:
        force_setattr(self, "kind", clipped(self.kind, 256))
        force_setattr(self, "message", clipped(self.message, MESSAGE_CHARACTERS))
        if self.file is not None:
            force_setattr(self, "file", clipped(self.file, 4096, keep_end=True))
        force_setattr(self, "traceback", clipped(self.traceback, TRACEBACK_CHARACTERS, keep_end=True))


class Summed(Record, frozen=True):
    """A field of the replies of a cohort of which only sums travel: one tensor for each of ``weightings``.

    ``dtype`` is that of the values that were added.
    """

    name: Name
    dtype: Literal["float16", "bfloat16", "float32", "float64"]
    weightings: Weightings


class Field(Record, frozen=True):
    """One field of the replies of a cohort: the payloads of its clients back to back in one buffer.

    ``sizes`` are the bytes of each client's payload, ``coded`` says whether a compressor made them, and
    ``call`` which of the client's calls of the compressor it was (it keys the generator the receiver
    re-creates).
    """

    name: Name
    coded: bool
    call: Count
    sizes: Annotated[list[Bytes], Meta(max_length=65536)]
