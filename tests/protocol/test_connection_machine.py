"""Two connections and the bytes between them, driven at random: what comes out is what went in, or nothing."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol import messages as m
from protocol.buffers import pack, unpack
from protocol.connection import Connection, Identity, Received
from protocol.errors import ProtocolError, StateError
from protocol.fields import TensorSpec, WorkerInfo
from protocol.messages import URGENT
from protocol.states import Role, State

INFO = WorkerInfo("incarnation", "worker", 1, 2, ["cpu"], "2.6", "3.11", True)
SIZES = st.sampled_from([1, 7, 8, 1000, 70_000, (1 << 20) + 3, (2 << 20)])
Sent = tuple[m.Message, bytes]


class Side:
    """One end: its connection, what it has written and nobody read yet, what it sent and what it was given."""

    def __init__(self, role: Role) -> None:
        self.connection = Connection(role, Identity(b"secret", (), lambda: INFO))
        self.written = bytearray()
        self.sent: list[Sent] = []
        self.given: list[Sent] = []
        self.failed = False
        self.has_room = True
        self.connection.admit = lambda _: self.has_room

    def say(self, message: m.Message, data: bytes = b"") -> None:
        """Begin a message if it may be sent now; what may not raises StateError and changes nothing."""
        busy = self.connection.sending_body and (type(message) not in URGENT or bool(data))
        try:
            self.written += self.connection.send(message, pack([data] if data else []))
        except StateError:
            assert busy or not self.connection.is_open
        else:
            assert not busy
            self.sent.append((message, data))

    def take(self, received: list[Received]) -> None:
        """Keep what came out."""
        for one in received:
            self.given.append((one.message, b"".join(bytes(part) for part in unpack(one.buffers, one.body))))


class Conversation(RuleBasedStateMachine):
    """A master and a worker, a byte stream each way."""

    @initialize()
    def begin(self) -> None:
        self.master, self.worker = Side(Role.MASTER), Side(Role.WORKER)
        self.spoiled = False
        self.carry(self.master, 0)

    def carry(self, side: Side, _: int) -> None:
        side.written += side.connection.handshake_bytes()

    def other(self, side: Side) -> Side:
        return self.worker if side is self.master else self.master

    def side(self, is_master: bool) -> Side:
        return self.master if is_master else self.worker

    @rule(is_master=st.booleans(), share=st.floats(0, 1), limit=st.sampled_from([1, 31, 100, 1 << 16, 1 << 22]))
    def deliver(self, is_master: bool, share: float, limit: int) -> None:
        """Some of what one side wrote reaches the other, cut anywhere."""
        side = self.side(is_master)
        other = self.other(side)
        size = min(limit, int(share * len(side.written)) + 1, len(side.written))
        data = memoryview(bytes(side.written[:size]))
        taken = 0
        while taken < size and not other.failed and not other.connection.is_held:
            target = other.connection.receive_buffer()
            step = min(len(target), size - taken)
            target[:step] = data[taken : taken + step]
            taken += step
            self._receive(other, step)
        del side.written[: size if other.failed else taken]

    def _receive(self, side: Side, nbytes: int | None) -> None:
        connection = side.connection
        try:
            side.take(connection.resumed() if nbytes is None else connection.received(nbytes))
            side.written += connection.handshake_bytes()
        except ProtocolError:
            assert self.spoiled, "a right stream was refused"
            side.failed = True
            assert connection.state is State.FAILED

    @rule(is_master=st.booleans(), size=SIZES)
    def send_body(self, is_master: bool, size: int) -> None:
        """A message with a body of any size begins, where that is legal."""
        side = self.side(is_master)
        data = bytes(np.random.default_rng(size).integers(0, 256, size, np.uint8))
        tensors = [TensorSpec("x", "uint8", [size])]
        side.say(m.Shard("r", len(side.sent), tensors) if is_master else self._result(side, tensors), data)

    @staticmethod
    def _result(side: Side, tensors: list[TensorSpec]) -> m.Result:
        return m.Result("r", 0, len(side.sent), 0, [], [], tensors)

    @rule(is_master=st.booleans(), urgent=st.booleans())
    def send_small(self, is_master: bool, urgent: bool) -> None:
        """One without a body, urgent or not."""
        side = self.side(is_master)
        small: m.Message = m.Forget(f"{len(side.sent)}") if is_master else m.Ready(f"{len(side.sent)}", True)
        side.say(m.Ping(float(len(side.sent))) if urgent else small)

    @rule(is_master=st.booleans(), pieces=st.integers(1, 3))
    def write_pieces(self, is_master: bool, pieces: int) -> None:
        """The next pieces of the body under way."""
        side = self.side(is_master)
        for _ in range(pieces):
            if not side.failed and (piece := side.connection.next_piece()) is not None:
                side.written += piece[0]
                side.written += piece[1]

    @rule(is_master=st.booleans(), has_room=st.booleans())
    def make_room(self, is_master: bool, has_room: bool) -> None:
        """Memory for bodies comes and goes."""
        side = self.side(is_master)
        side.has_room = has_room
        if has_room and side.connection.is_held:
            self._receive(side, None)

    @precondition(lambda self: not self.spoiled)
    @rule(is_master=st.booleans(), at=st.floats(0, 1), bit=st.integers(0, 7))
    def spoil(self, is_master: bool, at: float, bit: int) -> None:
        """One bit of what is on its way, once."""
        side = self.side(is_master)
        if side.written and side.connection.is_open and self.other(side).connection.is_open:
            side.written[int(at * (len(side.written) - 1))] ^= 1 << bit
            self.spoiled = True

    @invariant()
    def what_comes_out_is_what_went_in(self) -> None:
        """In order, each kind: urgent messages may pass others, and nothing else may."""
        for side in (self.master, self.worker):
            for urgent in (False, True):
                sent = [each for each in self.other(side).sent if (type(each[0]) in URGENT) is urgent]
                given = [each for each in side.given if (type(each[0]) in URGENT) is urgent]
                assert given == sent[: len(given)]

    @invariant()
    def nothing_comes_before_the_handshake_is_over(self) -> None:
        """A side that is not open has given nothing out."""
        for side in (self.master, self.worker):
            assert side.connection.is_open or side.failed or not side.given

    def teardown(self) -> None:
        """Carry everything to its end: on an unspoiled pair all that was sent has come."""
        if not hasattr(self, "master"):
            return
        for _ in range(200):
            for is_master in (True, False):
                self.make_room(is_master, True)
                self.write_pieces(is_master, 3)
                self.deliver(is_master, 1.0, 1 << 30)
        for side in (self.master, self.worker):
            self.what_comes_out_is_what_went_in()
            if not self.spoiled:
                assert len(side.given) == len(self.other(side).sent)


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
