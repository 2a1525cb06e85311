"""protocol.headers: what is no message of ours is refused while it is read."""

from __future__ import annotations

import time
import tracemalloc
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import messages as m
from protocol.errors import MessageError
from protocol.fields import Buffer
from protocol.headers import decode_handshake, decode_header, encode_header

MEBI = 1 << 20
CANCEL = b"\x81\xa1m\x83\xa4type\xa6Cancel\xa3run\xa1r\xa5tasks"


def test_every_message_survives_the_journey(wire: Any) -> None:
    """Each type of message, encoded and decoded, is equal to itself, and the list of types is complete."""
    seen = set()
    for message, arrays in wire.from_master + wire.from_worker + wire.from_either:
        buffers = [Buffer(array.nbytes, array.nbytes) for array in arrays]
        assert decode_header(encode_header(message, buffers)) == (message, buffers)
        seen.add(type(message))
    for message in wire.handshake:
        assert decode_handshake(encode_header(message, [])) == message
        seen.add(type(message))
    every = {kind for base in (m.Message, m.BulkMessage) for kind in base.__subclasses__()} - {m.BulkMessage}
    assert seen == every == {*m.HANDSHAKE, *m.WORKING}


def test_no_working_message_is_decodable_before_authentication(wire: Any) -> None:
    """The decoder of the handshake knows its four messages and no other; the other knows none of these."""
    for message, _ in wire.from_master + wire.from_worker + wire.from_either:
        with pytest.raises(MessageError, match="handshake"):
            decode_handshake(encode_header(message, []))
    for message in wire.handshake:
        with pytest.raises(MessageError):
            decode_header(encode_header(message, []))


@pytest.mark.parametrize(
    "header",
    [
        {"m": {"type": "Exec", "run": "r"}},
        {"m": {"run": "r"}},
        {"m": {"type": "Forget"}},
        {"m": {"type": "Forget", "run": "r", "extra": 1}},
        {"m": {"type": "Forget", "run": "r"}, "extra": 1},
        {"m": {"type": "Forget", "run": 3}},
        {"m": {"type": "Forget", "run": "r" * 257}},
        {"m": {"type": "Forget", "run": "r"}, "b": [{"nbytes": 0, "raw_nbytes": 0}]},
        {"m": {"type": "Ping", "t": float("nan")}},
        {"m": {"type": "Ping", "t": float("inf")}},
        {"m": {"type": "Ping", "t": -1.0}},
        {"m": {"type": "Ping", "t": True}},
        {"m": {"type": "Shard", "run": "r", "client": -1, "tensors": []}},
        {"m": {"type": "Shard", "run": "r", "client": True, "tensors": []}},
        {"m": {"type": "Shard", "run": "r", "client": 2**54, "tensors": []}},
        {
            "m": {
                "type": "Shard",
                "run": "r",
                "client": 0,
                "tensors": [{"name": "x", "dtype": "object", "shape": []}],
            }
        },
        {
            "m": {
                "type": "Shard",
                "run": "r",
                "client": 0,
                "tensors": [{"name": "x", "dtype": "bool", "shape": [1]}],
            }
        },
        {"m": {"type": "Cancel", "run": "r", "tasks": [[1, 2, 3]]}},
        [],
        None,
    ],
    ids=repr,
)
def test_wrong_fields_are_refused(header: Any) -> None:
    """Unknown types and fields, wrong types, ranges and lengths, NaN, and buffers nobody expects."""
    with pytest.raises(MessageError):
        decode_header(msgspec.msgpack.encode(header))


@pytest.mark.parametrize(
    "buffers",
    [[], [Buffer(59, 60)], [Buffer(60, 59)], [Buffer(60, 60)] * 2, [Buffer(59, 59, "lz4")], [Buffer(64, 64)]],
    ids=repr,
)
def test_buffers_must_be_those_the_fields_imply(wire: Any, buffers: list[Buffer]) -> None:
    """A tensor of 60 bytes comes in one buffer of 60 bytes, and no other list of buffers is taken."""
    shard, _ = wire.from_master[1]
    assert decode_header(encode_header(shard, [Buffer(60, 60)]))[0] == shard
    with pytest.raises(MessageError):
        decode_header(encode_header(shard, buffers))


BOMBS = {
    "deep arrays": b"\x91" * MEBI,
    "deep arrays in an unknown field": b"\x81\xa1m\x82\xa3foo" + b"\x91" * MEBI,
    "deep arrays before the type": b"\x81\xa1m\x82\xa3run" + b"\x91" * MEBI,
    "deep arrays in the buffers": b"\x82\xa1b" + b"\x91" * MEBI,
    "deep maps": b"\x81\xa1m" * (MEBI // 3),
    "nested array32 of 4 G": b"\xdd\xff\xff\xff\xff" * (MEBI // 5),
    "a million empty maps": CANCEL + b"\xdd\x00\x0f\xff\xff" + b"\x80" * MEBI,
    "array32 of 4 G": CANCEL + b"\xdd\xff\xff\xff\xff",
    "map32 of 4 G": b"\xdf\xff\xff\xff\xff",
    "buffers, 4 G of them": b"\x82\xa1b\xdd\xff\xff\xff\xff",
    "bin32 of 4 G": b"\x81\xa1m\x82\xa4type\xa5Setup\xaaexperiment\xc6\xff\xff\xff\xff",
    "str32 of 4 G": b"\x81\xa1m\x82\xa4type\xa6Forget\xa3run\xdb\xff\xff\xff\xff",
    "extension": b"\x81\xa1m\xc7\x04\x01abcd",
    "timestamp": b"\x81\xa1m\x82\xa4type\xa4Ping\xa1t\xd6\xff\x00\x00\x00\x00",
    "bad UTF-8": b"\x81\xa1m\x82\xa4type\xa6Forget\xa3run\xa2\xff\xfe",
    "empty": b"",
    "something after the end": encode_header(m.Forget("r"), []) + b"\xc0",
}


@pytest.mark.parametrize("decode", [decode_header, decode_handshake])
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_at_once(name: str, decode: Any) -> None:
    """Input made to cost memory or time costs neither: under 64 KiB and 50 ms, for up to 1 MiB of header."""
    tracemalloc.start()
    start_s = time.perf_counter()
    try:
        with pytest.raises(MessageError):
            decode(BOMBS[name])
        assert tracemalloc.get_traced_memory()[1] < 64 << 10
        assert time.perf_counter() - start_s < 0.05
    finally:
        tracemalloc.stop()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["m", "b", "type", "run", "tasks", "t"]), inner)
        ),
    )
)
def test_arbitrary_values_raise_nothing_else(value: Any) -> None:
    """Whatever msgpack can say, the answer is a message or a MessageError."""
    for decode in (decode_header, decode_handshake):
        with suppress(MessageError):
            decode(msgspec.msgpack.encode(value))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_else(data: bytes) -> None:
    """Bytes that are no msgpack at all are a MessageError."""
    for decode in (decode_header, decode_handshake):
        with suppress(MessageError):
            decode(data)


def test_what_cannot_be_encoded_is_a_message_error() -> None:
    """A field msgpack cannot carry is named where it is sent."""
    with pytest.raises(MessageError, match="Forget"):
        encode_header(m.Forget(object()), [])  # type: ignore[arg-type]
    with pytest.raises(MessageError, match="Forget"):
        encode_header(m.Forget("\ud800"), [])
