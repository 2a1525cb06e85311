"""The root of the error tree, and the branch of it that closes a connection.

FlspanError
├── InputError            what the user gave is wrong: exit code 2          (branches in fl_core.errors)
├── RunError              the run could not go on: exit code 1              (branches in fl_core.errors)
└── ProtocolError         a peer broke the protocol: the connection closes, nothing else happens
    ├── FrameError            bytes that are no frame: magic, version, checksum, order
    ├── LimitError            a length beyond what is allowed in this state; raised before memory is taken
    ├── MessageError          a frame whose header is no message we know, or whose fields are wrong
    ├── StateError            a message that is not legal now
    ├── AuthenticationError   the peer does not hold the same secret, or said so of us
    └── ConnectionLostError   the link ended: end of file, reset, or silence beyond the limit
"""

from __future__ import annotations


class FlspanError(Exception):
    """Everything this project raises on purpose."""


class InputError(FlspanError):
    """What the user gave is wrong. The text says what, where, and the nearest thing that is right."""


class RunError(FlspanError):
    """The run could not go on. What it had is saved."""


class ProtocolError(FlspanError):
    """A peer broke the protocol. Its connection is closed; nothing it sent is used."""


class FrameError(ProtocolError):
    """Bytes that are no frame of ours: wrong magic, version, checksum or order."""


class LimitError(ProtocolError):
    """A length beyond what this state allows, refused before memory is taken for it."""


class MessageError(ProtocolError):
    """A header that is not a message of ours: unknown type or field, wrong type or range."""


class StateError(ProtocolError):
    """A message that is not legal in the connection's present state."""


class AuthenticationError(ProtocolError):
    """The two sides do not hold the same secret."""


class ConnectionLostError(ProtocolError):
    """The link ended: end of file, reset, or silence beyond the limit."""
