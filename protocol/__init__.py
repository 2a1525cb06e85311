"""Bytes, frames, messages and authentication between a master and its workers. Knows no torch.

Read :mod:`~protocol.messages` first (what is said), then :mod:`~protocol.states` (when),
:mod:`~protocol.frames` (as which bytes), :mod:`~protocol.connection` (all rules together, without a socket),
:mod:`~protocol.transport` (on a socket).
"""

from protocol.errors import (
    AuthenticationError,
    ConnectionLostError,
    FlspanError,
    FrameError,
    InputError,
    LimitError,
    MessageError,
    ProtocolError,
    RunError,
    StateError,
)
from protocol.fields import DTYPE_BYTES, Field, Report, Source, TensorSpec, WorkerInfo
from protocol.frames import Limits
from protocol.link import Link
from protocol.messages import (
    Broadcast,
    Cancel,
    Drain,
    Failure,
    Forget,
    Message,
    Ready,
    Result,
    Setup,
    Shard,
    Task,
)
from protocol.secret import Secret, new_secret, read_secret, write_secret
from protocol.settings import LinkSettings
from protocol.transport import Server, dial, listen

__all__ = [
    "DTYPE_BYTES",
    "AuthenticationError",
    "Broadcast",
    "Cancel",
    "ConnectionLostError",
    "Drain",
    "Failure",
    "Field",
    "FlspanError",
    "Forget",
    "FrameError",
    "InputError",
    "LimitError",
    "Limits",
    "Link",
    "LinkSettings",
    "Message",
    "MessageError",
    "ProtocolError",
    "Ready",
    "Report",
    "Result",
    "RunError",
    "Secret",
    "Server",
    "Setup",
    "Shard",
    "Source",
    "StateError",
    "Task",
    "TensorSpec",
    "WorkerInfo",
    "dial",
    "listen",
    "new_secret",
    "read_secret",
    "write_secret",
]
