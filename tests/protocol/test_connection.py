"""protocol.connection: the handshake, and every rule on bytes from a peer, without a socket."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import messages as m
from protocol.buffers import Body, pack
from protocol.connection import Connection
from protocol.errors import (
    AuthenticationError,
    ConnectionLostError,
    FrameError,
    LimitError,
    MessageError,
    ProtocolError,
    StateError,
)
from protocol.fields import Buffer, TensorSpec
from protocol.frames import Limits, message_frame
from protocol.headers import encode_header
from protocol.states import Role, State


def test_the_handshake_opens_both_sides(wire: Any) -> None:
    """Four messages; then the master knows the worker, and both the codecs that both offered."""
    master, worker = wire.opened(codecs=("lz4",))
    assert (master.state, worker.state) == (State.OPEN, State.OPEN)
    assert (master.peer, worker.peer) == (wire.info, None)
    assert master.codecs == worker.codecs == {"lz4"}


@settings(max_examples=30)
@given(st.lists(st.integers(1, 500), min_size=1, max_size=50))
def test_every_message_arrives_however_the_stream_is_cut(wire: Any, sizes: list[int]) -> None:
    """Each message of each side, with its buffers, is what the other receives."""
    for sender, receiver, traffic in (
        (*wire.opened(), wire.from_master + wire.from_either),
        (*wire.opened()[::-1], wire.from_worker + wire.from_either),
    ):
        data = b"".join(wire.bytes_of(sender, message, arrays) for message, arrays in traffic)
        received = wire.feed(receiver, data, sizes)
        assert [wire.split(one) for one in received] == [
            (message, [array.tobytes() for array in arrays]) for message, arrays in traffic
        ]


@settings(max_examples=300)
@given(st.data())
def test_a_changed_stream_gives_only_what_is_right_or_a_protocol_error(wire: Any, data: st.DataObject) -> None:
    """Bytes flipped, cut out, repeated or put in: what comes out is a beginning of what was sent, or an error."""
    master, worker = wire.opened()
    traffic = wire.from_master + wire.from_either
    whole = b"".join(wire.bytes_of(master, message, arrays) for message, arrays in traffic)
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 200)))
    middle = data.draw(st.binary(max_size=100) | st.just(whole[start:end] * 2))
    changed = whole[:start] + middle + whole[end:]
    received = []
    with suppress(ProtocolError):
        for part in np.array_split(np.frombuffer(changed, np.uint8), data.draw(st.integers(1, 20))):
            received += wire.feed(worker, part.tobytes())
    expected = [(message, [array.tobytes() for array in arrays]) for message, arrays in traffic]
    assert [wire.split(one) for one in received] == expected[: len(received)]


@settings(max_examples=300)
@given(st.data())
def test_a_changed_header_with_a_right_checksum_raises_nothing_else(wire: Any, data: st.DataObject) -> None:
    """A peer that holds the secret and lies in the header: a message of ours, or a ProtocolError."""
    master, worker = wire.opened()
    message, arrays = data.draw(st.sampled_from(wire.from_master))
    header = bytearray(encode_header(message, [Buffer(array.nbytes, array.nbytes) for array in arrays]))
    for _ in range(data.draw(st.integers(1, 3))):
        header[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))
    frame = message_frame(bytes(header), pack(arrays).nbytes, master._next_seq)
    with suppress(ProtocolError):
        wire.feed(worker, frame)


@settings(max_examples=200)
@given(st.binary(max_size=200), st.integers(0, 3))
def test_noise_in_the_handshake_raises_nothing_else(wire: Any, noise: bytes, turn: int) -> None:
    """Noise, raw or as a frame with right checksums, at each state of the handshake."""
    for data in (noise, message_frame(noise, 0, turn // 2)):
        master, worker = wire.pair()
        sides = [worker, master, worker, master]
        for step in range(turn):
            wire.feed(sides[step], sides[step + 1].handshake_bytes())
        with suppress(ProtocolError):
            assert wire.feed(sides[turn], data) == []
        assert not sides[turn].is_open


def test_nothing_but_the_handshake_is_taken_before_authentication(wire: Any) -> None:
    """Each working message, sent to a fresh worker or in place of a proof, is refused undecoded."""
    for message, arrays in wire.from_master + wire.from_worker + wire.from_either:
        buffers = [Buffer(array.nbytes, array.nbytes) for array in arrays]
        for greeted in (False, True):
            master, worker = wire.pair()
            if greeted:
                wire.feed(worker, master.handshake_bytes())
            body_bytes = pack(arrays).nbytes
            with pytest.raises(LimitError if body_bytes else MessageError):
                wire.feed(worker, message_frame(encode_header(message, buffers), body_bytes, int(greeted)))


def test_a_header_of_5_kb_or_any_body_is_too_much_before_authentication(wire: Any) -> None:
    """The limits of a stranger: 4 KiB of header, no body."""
    for frame in (message_frame(bytes(5000), 0, 0), message_frame(b"", 1, 0)):
        _, worker = wire.pair()
        with pytest.raises(LimitError):
            wire.feed(worker, frame)


@pytest.mark.parametrize(
    ("of_master", "of_worker"),
    [(b"a" * 32, b"b" * 32), (b"", b"b" * 32), (b"a" * 32, b"")],
    ids=["other", "master has none", "worker has none"],
)
def test_a_wrong_or_missing_secret_is_refused_by_the_worker(wire: Any, of_master: bytes, of_worker: bytes) -> None:
    """The worker refuses the master's proof and gives none of its own; the master can tell why it was cut off."""
    master = Connection(Role.MASTER, replace(wire.identity, secret=of_master))
    worker = Connection(Role.WORKER, replace(wire.identity, secret=of_worker))
    with pytest.raises(AuthenticationError, match="same --secret-file"):
        wire.shake(master, worker)
    assert worker.state is State.FAILED
    assert worker.handshake_bytes() == b""
    assert isinstance(master.cut("closed the connection"), AuthenticationError)


def test_a_worker_without_the_secret_is_refused_by_the_master(wire: Any) -> None:
    """An impostor that accepts any proof does not get further with its own."""
    master, impostor = wire.pair()
    wire.feed(impostor, master.handshake_bytes())
    wire.feed(master, impostor.handshake_bytes())
    welcome = encode_header(m.Welcome(bytes(32), wire.info), [])
    with pytest.raises(AuthenticationError, match="worker"):
        wire.feed(master, message_frame(welcome, 0, 1))
    assert not master.is_open


def test_a_reflected_handshake_is_refused(wire: Any) -> None:
    """Sending each side's own words back to it opens nothing, at the first message or at the proof."""
    master, _ = wire.pair()
    with pytest.raises(StateError):
        wire.feed(master, master.handshake_bytes())
    master, worker = wire.pair()
    wire.feed(worker, master.handshake_bytes())
    wire.feed(master, worker.handshake_bytes())
    proof = msgspec.msgpack.decode(master.handshake_bytes()[32:])["m"]["mac"]
    with pytest.raises(AuthenticationError):
        wire.feed(master, message_frame(encode_header(m.Welcome(proof, wire.info), []), 0, 1))


def test_a_replayed_handshake_is_refused(wire: Any) -> None:
    """What a master once said, said again word for word, meets another nonce and is refused; so for a worker."""
    master, worker = wire.pair()
    hello = master.handshake_bytes()
    wire.feed(worker, hello)
    challenge = worker.handshake_bytes()
    wire.feed(master, challenge)
    proof = master.handshake_bytes()
    wire.feed(worker, proof)
    welcome = worker.handshake_bytes()
    _, second = wire.pair()
    wire.feed(second, hello)
    with pytest.raises(AuthenticationError):
        wire.feed(second, proof)
    second, _ = wire.pair()
    wire.feed(second, challenge)
    with pytest.raises(AuthenticationError):
        wire.feed(second, welcome)


def test_a_changed_offer_is_noticed(wire: Any) -> None:
    """A man in the middle that takes lz4 out of the master's offer makes the proof wrong."""
    master, worker = wire.pair(codecs=("lz4",))
    hello = msgspec.msgpack.decode(master.handshake_bytes()[32:])
    hello["m"]["codecs"] = []
    wire.feed(worker, message_frame(msgspec.msgpack.encode(hello), 0, 0))
    wire.feed(master, worker.handshake_bytes())
    with pytest.raises(AuthenticationError):
        wire.feed(worker, master.handshake_bytes())


def test_another_channel_is_noticed(wire: Any) -> None:
    """A proof made over one TLS certificate does not hold over another: no relaying."""
    master = Connection(Role.MASTER, replace(wire.identity, channel_binding=b"certificate of the relay"))
    worker = Connection(Role.WORKER, replace(wire.identity, channel_binding=b"certificate of the worker"))
    with pytest.raises(AuthenticationError):
        wire.shake(master, worker)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"version": 2}, "version 2"), ({"byteorder": "big"}, "big-endian"), ({"role": "worker"}, "role")],
)
def test_a_peer_that_cannot_be_understood_is_told_apart(wire: Any, change: dict[str, Any], says: str) -> None:
    """Another version or byte order, or a master that says it is a worker: refused with a reason."""
    _, worker = wire.pair()
    hello = {"type": "Hello", "version": 1, "role": "master", "nonce": b"n" * 32, "codecs": [], "byteorder": "little"}
    with pytest.raises(ProtocolError, match=says):
        wire.feed(worker, message_frame(msgspec.msgpack.encode({"m": hello | change}), 0, 0))


def test_heartbeats_pass_between_the_pieces_of_a_body_of_50_mb(wire: Any) -> None:
    """A Ping sent after each piece is received before the next; the body is whole at the end, once."""
    master, worker = wire.opened()
    array = np.arange(50_000_000 // 8, dtype=np.int64)
    message = m.Broadcast("run", 1, "", {}, [TensorSpec("x", "int64", [len(array)])])
    received = wire.feed(worker, master.send(message, pack([array])))
    pings = 0
    while (piece := master.next_piece()) is not None:
        assert len(piece[1]) <= 1 << 20
        received += wire.feed(worker, piece[0]) + wire.feed(worker, piece[1])
        if master.sending_body and worker._reader.expects_body:
            assert [one.message for one in wire.feed(worker, master.send(m.Ping(float(pings))))] == [
                m.Ping(float(pings))
            ]
            pings += 1
    assert pings == 47
    assert [one.message for one in received] == [message]
    assert np.array_equal(received[0].body.view(np.int64), array)


def test_only_urgent_messages_pass_a_body(wire: Any) -> None:
    """Neither side lets a Task or a second body between the pieces of another."""
    master, worker = wire.opened()
    shard, arrays = wire.from_master[1]
    task, _ = wire.from_master[3]
    wire.feed(worker, master.send(shard, pack(arrays)))
    with pytest.raises(StateError, match="before the body"):
        master.send(task)
    with pytest.raises(StateError, match="before the body"):
        master.send(shard, pack(arrays))
    assert [one.message for one in wire.feed(worker, master.send(m.Cancel("run", 1, [])))] == [m.Cancel("run", 1, [])]
    with pytest.raises(StateError, match="between the pieces"):
        wire.feed(worker, message_frame(encode_header(task, []), 0, master._next_seq))


def test_after_an_error_a_connection_takes_nothing(wire: Any) -> None:
    """What came with the error is not given out, and what comes after it is refused."""
    master, worker = wire.opened()
    good = master.send(m.Forget("run"))
    with pytest.raises(FrameError):
        wire.feed(worker, good + b"GET / HTTP/1.1\r\n\r\n")
    assert not worker.is_open
    with pytest.raises(StateError):
        worker.received(0)
    with pytest.raises(StateError):
        worker.send(m.Ping(0.0))


def test_what_the_peer_would_refuse_is_refused_here_and_the_connection_lives(wire: Any) -> None:
    """A wrong field, wrong buffers, a header too long, an illegal message: an error, and the next one goes."""
    master, worker = wire.opened(Limits(header_bytes=1000))
    shard, arrays = wire.from_master[1]
    with pytest.raises(MessageError):
        master.send(m.Shard("run", -1, []))
    with pytest.raises(MessageError):
        master.send(shard, pack([]))
    with pytest.raises(LimitError):
        master.send(m.Setup("run", bytes(2000), [], ""))
    with pytest.raises(StateError):
        master.send(m.Drain())
    assert [wire.split(one) for one in wire.feed(worker, wire.bytes_of(master, shard, arrays))] == [
        (shard, [arrays[0].tobytes()])
    ]


def test_the_limit_of_bodies_follows_the_experiment(wire: Any) -> None:
    """A body over the limit takes no memory; raising the limit, before or after the handshake, lets it in."""
    shard, arrays = wire.from_master[1]
    for early in (False, True):
        master, worker = wire.pair(Limits(body_bytes=1 << 40))
        if early:
            worker.body_limit = 63
        wire.shake(master, worker)
        if not early:
            worker.body_limit = 63
        with pytest.raises(LimitError, match="64"):
            wire.feed(worker, master.send(shard, pack(arrays)))
    master, worker = wire.opened(Limits(body_bytes=63))
    worker.body_limit = 64
    assert len(wire.feed(worker, wire.bytes_of(master, shard, arrays))) == 1


def test_what_a_body_announces_is_not_taken_before_its_header_is_right(wire: Any) -> None:
    """A GiB announced under a header whose buffers do not add up takes no memory."""
    shard = m.Shard("run", 0, [TensorSpec("x", "uint8", [1 << 20])])
    master, worker = wire.opened()
    frame = message_frame(encode_header(shard, [Buffer(1 << 20, 1 << 20)]), 1 << 30, master._next_seq)
    tracemalloc.start()
    try:
        with pytest.raises(MessageError, match="add up"):
            wire.feed(worker, frame)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_lz4_must_have_been_offered_by_both(wire: Any) -> None:
    """A compressed buffer to a side that did not offer lz4 is refused."""
    shard = m.Shard("run", 0, [TensorSpec("x", "uint8", [100])])
    body = Body((Buffer(16, 100, "lz4"),), (memoryview(bytes(16)),), 16)
    master, worker = wire.opened()
    with pytest.raises(MessageError, match="did not offer"):
        wire.feed(worker, master.send(shard, body))
    master, worker = wire.opened(codecs=("lz4",))
    assert wire.feed(worker, master.send(shard, body)) == []


def test_after_bye_nothing_more_is_said_but_the_other_side_may_finish(wire: Any) -> None:
    """Bye closes one direction; a Result under way in the other still arrives; then the end is a farewell."""
    master, worker = wire.opened()
    result = wire.from_worker[1]
    late = wire.bytes_of(worker, *result)
    wire.feed(worker, master.send(m.Bye("the run is over")))
    with pytest.raises(StateError):
        master.send(m.Ping(0.0))
    assert [one.message for one in wire.feed(master, late + worker.send(m.Bye("bye")))] == [result[0], m.Bye("bye")]
    assert (master.state, worker.state) == (State.ENDED, State.ENDED)
    assert str(worker.cut("closed the connection")) == "left: the run is over"


def test_the_end_of_a_stream_is_explained(wire: Any) -> None:
    """In the middle of a message, during the handshake, or between two messages: the error says which."""
    master, worker = wire.pair()
    assert "during the handshake" in str(worker.cut("closed"))
    wire.shake(master, worker)
    assert str(worker.cut("closed")) == "closed"
    wire.feed(worker, master.send(m.Forget("run"))[:-1])
    error = worker.cut("closed")
    assert isinstance(error, ConnectionLostError)
    assert str(error) == "closed in the middle of a message"
