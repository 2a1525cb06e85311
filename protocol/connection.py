"""A connection without a socket: bytes in, messages out, and every rule of the protocol between.

The owner moves bytes and nothing else::

    read into connection.receive_buffer(), then connection.received(n) -> [Received, ...]
    write connection.handshake_bytes() whenever something was received (and once at the start)
    write connection.send(message, body), then each connection.next_piece() until there is none

Whatever breaks a rule raises a ProtocolError, after which the connection is of no use: close the socket.
Limits hold before memory is taken, and until both sides have proved that they hold the secret nothing but the
four messages of the handshake can be decoded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from protocol import auth
from protocol.buffers import Body, Bytes1d, check_sizes, pack
from protocol.errors import (
    AuthenticationError,
    ConnectionLostError,
    LimitError,
    MessageError,
    ProtocolError,
    StateError,
)
from protocol.fields import Buffer, WorkerInfo
from protocol.frames import (
    SCRATCH_BYTES,
    VERSION,
    BodyComplete,
    FrameReader,
    Header,
    Limits,
    message_frame,
    piece_prelude,
)
from protocol.headers import decode_handshake, decode_header, encode_header, encoded_info
from protocol.messages import URGENT, Bye, Challenge, Hello, Message, Proof, Welcome
from protocol.states import HANDSHAKE_STATES, TRANSITIONS, Role, State, next_state

_NOTHING = pack(())
_NO_BYTES: Bytes1d = np.empty(0, np.uint8)


@dataclass(frozen=True, slots=True)
class Received:
    """A whole message, and its body as it came, which :func:`protocol.buffers.unpack` splits."""

    message: Message
    buffers: Sequence[Buffer] = ()
    body: Bytes1d = field(default_factory=lambda: _NO_BYTES)


@dataclass(frozen=True, slots=True)
class Identity:
    """What one side brings along: its secret (empty: none), its offers and, a worker, what it is.

    A master that ``visits`` only wants to see what the worker says of itself.
    """

    secret: bytes = field(default=b"", repr=False)
    codecs: tuple[str, ...] = ()
    info: Callable[[], WorkerInfo] | None = None
    channel_binding: bytes = b""
    visits: bool = False


class Connection:
    """One end of a connection, as a state machine over bytes.

    ``admit``, if set, is asked before memory is taken for a body of so many bytes. If it says no, the connection
    is held: nothing more is to be received until the owner, when there is room, calls :meth:`resumed`.
    """

    def __init__(self, role: Role, identity: Identity, limits: Limits | None = None) -> None:
        self.role = role
        self.limits = limits or Limits()
        self.codecs: frozenset[str] = frozenset()
        self.peer: WorkerInfo | None = None
        self.admit: Callable[[int], bool] | None = None
        self.is_visit = identity.visits
        self._identity = identity
        self._state = State.START
        self._reader = FrameReader(self.limits.handshake_header_bytes, 0)
        self._next_seq = 0
        self._pieces: Iterator[bytes | memoryview] | None = None
        self._piece_seq = 0
        self._pending: Received | None = None
        self._held: tuple[Header, Message, list[Buffer]] | None = None
        self._channel_binding = identity.channel_binding
        self._body_limit = self.limits.body_bytes
        self._farewell: str | None = None
        self._own_opening = b""
        self._transcript = b""
        self._handshake_out = bytearray()
        if role is Role.WORKER and identity.info is None:
            raise TypeError("a worker's connection needs an identity with info")
        if role is Role.MASTER:
            self._own_opening = self._say(Hello(VERSION, "visitor" if self.is_visit else "master", *self._offer()))

    @property
    def state(self) -> State:
        """How far the connection has come."""
        return self._state

    @property
    def is_open(self) -> bool:
        """Whether both sides have proved themselves and this one may send."""
        return self._state not in HANDSHAKE_STATES and (self._state, self.role) in TRANSITIONS

    @property
    def sending_body(self) -> bool:
        """Whether :meth:`next_piece` has something to give."""
        return self._pieces is not None

    @property
    def is_held(self) -> bool:
        """Whether a body waits for memory; see :attr:`admit`."""
        return self._held is not None

    @property
    def mid_message(self) -> bool:
        """Whether the peer has begun something that it has not finished."""
        return self._reader.mid_frame

    def bind_channel(self, binding: bytes) -> None:
        """The proofs hold only over the channel with this ``binding``, which both sides must see alike."""
        self._channel_binding = binding

    @property
    def body_limit(self) -> int:
        """The largest body the peer may announce, in bytes; what it decompresses to is held to it as well."""
        return self._body_limit

    @body_limit.setter
    def body_limit(self, limit: int) -> None:
        self._body_limit = limit
        if self._state not in HANDSHAKE_STATES:
            self._reader.body_limit = limit

    # --- receiving ----------------------------------------------------------------------------------------

    def receive_buffer(self) -> memoryview:
        """Where the next bytes from the peer go; never empty."""
        return self._reader.buffer()

    def received(self, nbytes: int) -> list[Received]:
        """The messages that became whole with ``nbytes`` more in :meth:`receive_buffer`.

        Raises:
            ProtocolError: the peer broke a rule; nothing of what it sent now is given, and all later calls
            raise.
        """
        if self._state is State.FAILED:
            raise StateError("this connection has failed and takes nothing more")
        whole: list[Received] = []
        try:
            for frame in self._reader.frames(nbytes):
                if isinstance(frame, BodyComplete):
                    assert self._pending is not None
                    whole.append(self._pending)
                    self._pending = None
                elif self._state in HANDSHAKE_STATES:
                    self._take_handshake(frame)
                else:
                    whole.extend(self._take(frame))
                    if self._held is not None:
                        break
        except ProtocolError:
            self._state = State.FAILED
            self._pending = self._held = None
            raise
        return whole

    def resumed(self) -> list[Received]:
        """The messages that became whole now that the body that was held may come. Raises as :meth:`received`."""
        if self._held is not None:
            held, self._held = self._held, None
            self._expect_body(*held)
        return self.received(0)

    def _take(self, frame: Header) -> list[Received]:
        message, buffers = decode_header(frame.header)
        self._state = next_state(self._state, self.role.other, message)
        if isinstance(message, Bye):
            self._farewell = message.reason
        check_sizes(buffers, frame.body_bytes, self._body_limit)
        if self._reader.expects_body and type(message) not in URGENT:
            raise StateError(f"a {type(message).__name__} came between the pieces of another message")
        for buffer in buffers:
            if buffer.codec != "none" and buffer.codec not in self.codecs:
                raise MessageError(f"a buffer is coded with {buffer.codec}, which this side did not offer")
        if not frame.body_bytes:
            return [Received(message, buffers)]
        if self.admit is None or self.admit(frame.body_bytes):
            self._expect_body(frame, message, buffers)
        else:
            self._held = frame, message, buffers
        return []

    def _expect_body(self, frame: Header, message: Message, buffers: list[Buffer]) -> None:
        try:
            body = np.empty(frame.body_bytes, np.uint8)
        except MemoryError:
            raise LimitError(f"there is no memory for a body of {frame.body_bytes} bytes") from None
        self._pending = Received(message, buffers, body)
        self._reader.expect_body(frame.seq, body)

    def cut(self, what: str) -> ProtocolError:
        """What it means that the stream ends here; ``what`` says how, as in "closed the connection"."""
        if self._farewell is not None:
            return ConnectionLostError(f"left: {self._farewell}")
        if self.role is Role.MASTER and self._state is State.PROVEN:
            return AuthenticationError(
                f"{what} when this side had given its proof: most likely it does not hold the same secret; "
                "give both sides the same --secret-file"
            )
        if self.role is Role.MASTER and self._state is State.GREETED and not self._channel_binding:
            return ConnectionLostError(f"{what} during the handshake: no worker, or one with --tls-cert")
        if self._state in HANDSHAKE_STATES:
            return ConnectionLostError(f"{what} during the handshake")
        return ConnectionLostError(what + " in the middle of a message" * self._reader.mid_frame)

    # --- sending ------------------------------------------------------------------------------------------

    def send(self, message: Message, body: Body = _NOTHING) -> bytes:
        """The frame that begins ``message``; with a body, :meth:`next_piece` gives the rest.

        Nothing of this changes the connection when it raises.

        Raises:
            StateError: not legal now, or another body is not finished and ``message`` may not pass it.
            MessageError: fields or buffers the peer would refuse.
            LimitError: a header beyond what the peer takes.
        """
        if self._state in HANDSHAKE_STATES:
            raise StateError(f"{type(message).__name__} cannot be sent before the handshake is over")
        state = next_state(self._state, self.role, message)
        if self._pieces is not None and (type(message) not in URGENT or body.nbytes):
            raise StateError(f"{type(message).__name__} cannot be sent before the body of another message")
        buffers = list(body.buffers)
        header = encode_header(message, buffers)
        if len(header) > self.limits.header_bytes:
            raise LimitError(
                f"the header of a {type(message).__name__} would take {len(header)} bytes; "
                f"{self.limits.header_bytes} are allowed"
            )
        decode_header(header)  # what the peer would refuse is refused here, where the mistake is
        self._state = state
        if body.nbytes:
            self._pieces = body.pieces()
            self._piece_seq = self._next_seq
        return self._frame(header, body.nbytes)

    def next_piece(self) -> tuple[bytes, bytes | memoryview] | None:
        """The next piece of the body being sent, as prelude and bytes; None when there is none left."""
        if self._pieces is None:
            return None
        piece = next(self._pieces, None)
        if piece is None:
            self._pieces = None
            return None
        return piece_prelude(piece, self._piece_seq), piece

    def _frame(self, header: bytes, body_bytes: int) -> bytes:
        frame = message_frame(header, body_bytes, self._next_seq)
        self._next_seq += 1
        return frame

    # --- the handshake ------------------------------------------------------------------------------------

    def handshake_bytes(self) -> bytes:
        """What the handshake has to send now; empty when nothing."""
        out = bytes(self._handshake_out)
        self._handshake_out.clear()
        return out

    def _offer(self) -> tuple[bytes, list[str], Literal["little", "big"]]:
        return auth.new_nonce(), list(self._identity.codecs), sys.byteorder

    def _say(self, message: Message) -> bytes:
        self._state = next_state(self._state, self.role, message)
        header = encode_header(message, [])
        self._handshake_out += self._frame(header, 0)
        return header

    def _take_handshake(self, frame: Header) -> None:
        self._reader.header_limit -= len(frame.header)  # the limit of a stranger is on all it says
        message = decode_handshake(frame.header)
        self._state = next_state(self._state, self.role.other, message)
        if isinstance(message, Hello):
            self._agree(message)
            self.is_visit = message.role == "visitor"
            self._own_opening = self._say(Challenge(VERSION, "worker", *self._offer()))
            self._remember(frame.header, self._own_opening)
        elif isinstance(message, Challenge):
            self._agree(message)
            self._remember(self._own_opening, frame.header)
            self._say(Proof(self._proof(self.role)))
        elif isinstance(message, Proof):
            auth.check_proof(message.mac, self._identity.secret, Role.MASTER, self._transcript)
            assert self._identity.info is not None
            info = self._identity.info()
            self._say(Welcome(self._proof(self.role, encoded_info(info)), info))
            self._open()
        elif isinstance(message, Welcome):
            info = message.worker
            auth.check_proof(message.mac, self._identity.secret, Role.WORKER, self._transcript, encoded_info(info))
            self.peer = info
            self._open()

    def _agree(self, opening: Hello | Challenge) -> None:
        if opening.version != VERSION:
            raise AuthenticationError(
                f"the {opening.role} speaks version {opening.version} of the protocol and this side "
                f"version {VERSION}: install the same flspan on both sides"
            )
        if opening.byteorder != sys.byteorder:
            raise AuthenticationError(
                f"the {opening.role} is {opening.byteorder}-endian and this side {sys.byteorder}-endian: "
                "they cannot exchange tensors"
            )
        self.codecs = frozenset(self._identity.codecs) & frozenset(opening.codecs)

    def _remember(self, hello: bytes, challenge: bytes) -> None:
        self._transcript = auth.transcript(hello, challenge, self._channel_binding)

    def _proof(self, role: Role, said: bytes = b"") -> bytes:
        return auth.proof(self._identity.secret, role, self._transcript, said)

    def _open(self) -> None:
        self._reader.scratch_bytes = SCRATCH_BYTES
        self._reader.header_limit = self.limits.header_bytes
        self._reader.body_limit = self._body_limit
