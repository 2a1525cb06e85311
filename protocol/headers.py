"""Headers: messages to and from msgpack, straight into their types.

The header of a frame is one msgpack map ``{"m": message, "b": [buffer, ...]}``. msgspec decodes it against
the schema as it reads: an unknown type or field, a wrong type, a value out of range or a list that is too
long is refused there and then, so nothing is ever built that the schema does not name, however the bytes are
nested.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta, Struct

from protocol.errors import MessageError
from protocol.fields import Buffer, Record, WorkerInfo
from protocol.messages import (
    Broadcast,
    BulkMessage,
    Bye,
    Cancel,
    Challenge,
    Drain,
    Failure,
    Forget,
    Hello,
    Message,
    Ping,
    Pong,
    Proof,
    Ready,
    Result,
    Setup,
    Shard,
    Task,
    Welcome,
)

_Handshake: TypeAlias = Hello | Challenge | Proof | Welcome
_Working: TypeAlias = (
    Ping | Pong | Bye | Setup | Shard | Broadcast | Task | Cancel | Forget | Ready | Result | Failure | Drain
)
Buffers: TypeAlias = Annotated[list[Buffer], Meta(max_length=8192)]


class _HandshakeHeader(Record, frozen=True):
    m: _Handshake


class _Header(Record, frozen=True, omit_defaults=True):
    m: _Working
    b: Buffers = msgspec.field(default_factory=list)


class _AnyHeader(Struct, frozen=True, omit_defaults=True):
    m: Message
    b: list[Buffer] = msgspec.field(default_factory=list)


_encoder = msgspec.msgpack.Encoder()
_handshake_decoder = msgspec.msgpack.Decoder(_HandshakeHeader)
_decoder = msgspec.msgpack.Decoder(_Header)


def encode_header(message: Message, buffers: list[Buffer]) -> bytes:
    """The header of ``message``, whose body has these ``buffers``."""
    try:
        return _encoder.encode(_AnyHeader(message, buffers))
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as error:
        raise MessageError(f"this {type(message).__name__} cannot be written: {error}") from error


def encoded_info(info: WorkerInfo) -> bytes:
    """What a worker says of itself, as the bytes that go under its proof."""
    return _encoder.encode(info)


def decode_handshake(header: bytes) -> Message:
    """A message of the handshake; nothing else is decodable here. Raises MessageError."""
    try:
        return _handshake_decoder.decode(header).m
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MessageError(f"the header is not of a message of the handshake: {error}") from None


def decode_header(header: bytes) -> tuple[Message, list[Buffer]]:
    """A working message and the buffers of its body, checked against each other.

    Raises:
        MessageError: an unknown type or field, a wrong type or range, or buffers that are not the message's.
    """
    try:
        decoded = _decoder.decode(header)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MessageError(f"the header is not of a message we know: {error}") from None
    message, buffers = decoded.m, decoded.b
    sizes = message.buffer_sizes() if isinstance(message, BulkMessage) else []
    name = type(message).__name__
    if len(sizes) != len(buffers):
        raise MessageError(f"a {name} with {len(sizes)} buffers to its fields came with {len(buffers)}")
    for index, (buffer, size) in enumerate(zip(buffers, sizes, strict=True)):
        if buffer.raw_nbytes != size:
            raise MessageError(f"buffer {index} of a {name} has {buffer.raw_nbytes} bytes; its fields say {size}")
        if buffer.codec == "none" and buffer.nbytes != buffer.raw_nbytes:
            raise MessageError(f"buffer {index} of a {name} is not compressed, yet {buffer.nbytes} != {size} bytes")
    return message, buffers
