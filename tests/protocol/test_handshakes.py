"""Ten thousand handshakes of those who do not hold the secret: not one is accepted, by either side."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from protocol import auth
from protocol import messages as m
from protocol.connection import Connection
from protocol.errors import ProtocolError
from protocol.frames import message_frame
from protocol.headers import decode_handshake, encode_header
from protocol.states import Role

EACH = 1250
Attack = Callable[[Any, random.Random], tuple[Connection, bytes]]


def wrong_master(wire: Any, rng: random.Random) -> tuple[Connection, bytes]:
    """A master with another secret, or none."""
    secret = rng.choice((b"", rng.randbytes(32), wire.secret[:-1], wire.secret + b"\0", b"\0" * 32))
    stranger, worker = Connection(Role.MASTER, replace(wire.identity, secret=secret)), wire.pair()[1]
    wire.feed(worker, stranger.handshake_bytes())
    wire.feed(stranger, worker.handshake_bytes())
    return worker, stranger.handshake_bytes()


def wrong_worker(wire: Any, rng: random.Random) -> tuple[Connection, bytes]:
    """Somebody with another secret who takes any proof and answers with its own."""
    master, impostor = wire.pair()
    wire.feed(impostor, master.handshake_bytes())
    wire.feed(master, impostor.handshake_bytes())
    mac = auth.proof(rng.randbytes(32), Role.WORKER, impostor._transcript, msgspec.msgpack.encode(wire.info))
    return master, message_frame(encode_header(m.Welcome(mac, wire.info), []), 0, 1)


def replayed_to_worker(wire: Any, rng: random.Random) -> tuple[Connection, bytes]:
    """What a right master said to a right worker, word for word, to the same worker again."""
    recorded, second = _said_by_master(wire), wire.pair()[1]
    wire.feed(second, recorded[0])
    return second, recorded[1]


def replayed_to_master(wire: Any, rng: random.Random) -> tuple[Connection, bytes]:
    """What a right worker said, to the same master again."""
    master, worker = wire.pair()
    wire.feed(worker, master.handshake_bytes())
    challenge = worker.handshake_bytes()
    wire.feed(master, challenge)
    wire.feed(worker, master.handshake_bytes())
    second = wire.pair()[0]
    second.handshake_bytes()
    wire.feed(second, challenge)
    return second, worker.handshake_bytes()


def reflected_to_master(wire: Any, rng: random.Random) -> tuple[Connection, bytes]:
    """A master's own proof, given back to it as the worker's."""
    master, worker = wire.pair()
    wire.feed(worker, master.handshake_bytes())
    wire.feed(master, worker.handshake_bytes())
    return master, message_frame(encode_header(m.Welcome(_mac(master.handshake_bytes()), wire.info), []), 0, 1)


def reflected_to_worker(wire: Any, rng: random.Random) -> tuple[Connection, bytes]:
    """The proof a worker gave in another connection that was open at the same time, given to it as a master's."""
    master, first = wire.pair()
    wire.feed(first, master.handshake_bytes())
    wire.feed(master, first.handshake_bytes())
    wire.feed(first, master.handshake_bytes())
    other, second = wire.pair()
    wire.feed(second, other.handshake_bytes())
    return second, message_frame(encode_header(m.Proof(_mac(first.handshake_bytes())), []), 0, 1)


def relayed_over_another_certificate(wire: Any, rng: random.Random) -> tuple[Connection, bytes]:
    """A man in the middle with a certificate of his own passes everything on between two right ends."""
    master, worker = wire.pair()
    master.bind_channel(rng.randbytes(32))
    worker.bind_channel(rng.randbytes(32))
    wire.feed(worker, master.handshake_bytes())
    wire.feed(master, worker.handshake_bytes())
    return worker, master.handshake_bytes()


def almost_right(wire: Any, rng: random.Random) -> tuple[Connection, bytes]:
    """The right proof but for one bit, or what the worker says of itself changed beside a right one."""
    master, worker = wire.pair()
    wire.feed(worker, master.handshake_bytes())
    wire.feed(master, worker.handshake_bytes())
    proof = master.handshake_bytes()
    if rng.random() < 0.5:
        mac = bytearray(_mac(proof))
        mac[rng.randrange(32)] ^= 1 << rng.randrange(8)
        return worker, message_frame(encode_header(m.Proof(bytes(mac)), []), 0, 1)
    wire.feed(worker, proof)
    other = msgspec.structs.replace(wire.info, slots=wire.info.slots + 1)
    return master, message_frame(encode_header(m.Welcome(_mac(worker.handshake_bytes()), other), []), 0, 1)


ATTACKS: tuple[Attack, ...] = (
    *(wrong_master, wrong_worker, replayed_to_worker, replayed_to_master),
    *(reflected_to_master, reflected_to_worker, relayed_over_another_certificate, almost_right),
)


def test_ten_thousand_handshakes_without_the_secret_open_nothing(wire: Any) -> None:
    """1,250 of each of eight kinds; all are refused as what they are, and a right one still opens."""
    rng, refused = random.Random(1), Counter[str]()
    for attack in ATTACKS:
        for _ in range(EACH):
            victim, last = attack(wire, rng)
            assert not victim.is_open
            victim.handshake_bytes()  # what it said before the last word came
            with pytest.raises(ProtocolError) as caught:
                wire.feed(victim, last)
            refused[type(caught.value).__name__] += 1
            assert not victim.is_open
            assert victim.peer is None
            assert victim.handshake_bytes() == b""
    assert refused == {"AuthenticationError": EACH * len(ATTACKS)}
    assert refused.total() == 10_000
    wire.opened()


def _said_by_master(wire: Any) -> tuple[bytes, bytes]:
    master, worker = wire.pair()
    hello = master.handshake_bytes()
    wire.feed(worker, hello)
    wire.feed(master, worker.handshake_bytes())
    return hello, master.handshake_bytes()


def _mac(said: bytes) -> bytes:
    message = decode_handshake(said[32:])
    assert isinstance(message, m.Proof | m.Welcome)
    return message.mac
