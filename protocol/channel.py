"""What lies between a socket and a connection: nothing, or TLS. Either way bytes in and bytes out, no I/O.

A :class:`Channel` hands the socket's bytes to the connection, a :class:`TlsChannel` decrypts them on the way,
straight into the memory of the message they belong to. TLS is done here, not in asyncio's transport, so that
the 5 s and the limits of a stranger count from its first byte, whatever it speaks, and so that pausing,
half-closing and the size of what is buffered mean the same over both.
"""

from __future__ import annotations

import ssl

from protocol.connection import Connection, Received
from protocol.errors import AuthenticationError, FrameError, LimitError, ProtocolError
from protocol.frames import MAGIC, foreign
from protocol.states import Role
from protocol.tls import Tls

STRANGER_BYTES = 8 << 10
"""Ciphertext read at once before both sides have proved themselves."""
CIPHER_BYTES = 256 << 10
"""The same after it: sixteen records."""
_TLS_STARTS = (0x16, 0x15)  # a record of the handshake, an alert


class Channel:
    """Plain: the bytes of the socket are those of the connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.is_ended = False
        """Whether the peer said, below the connection, that nothing more comes."""

    def buffer(self) -> memoryview:
        """Where the next bytes of the socket go; never empty."""
        return self.connection.receive_buffer()

    def received(self, nbytes: int) -> list[Received]:
        """The messages that became whole with ``nbytes`` more in :meth:`buffer`. Raises ProtocolError."""
        return self.connection.received(nbytes)

    def resumed(self) -> list[Received]:
        """The same once memory was granted for a body that waited for it (`Connection.admit`)."""
        return self.connection.resumed()

    def handshake_bytes(self) -> bytes:
        """What is to be written now for the handshakes; empty when nothing. Raises ProtocolError."""
        return self.connection.handshake_bytes()

    def sealed(self, part: bytes | memoryview) -> bytes | memoryview:
        """``part`` of a frame as it goes to the socket."""
        return part

    def cut(self, what: str) -> ProtocolError:
        """What it means that the stream ends here; ``what`` says how."""
        return self.connection.cut(what)


class TlsChannel(Channel):
    """TLS 1.3 between the socket and the connection."""

    def __init__(self, connection: Connection, tls: Tls) -> None:
        super().__init__(connection)
        self._tls = tls
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        is_worker = connection.role is Role.WORKER
        self._ssl = tls.context.wrap_bio(self._incoming, self._outgoing, server_side=is_worker)
        self._shaken = False
        self._cipher = memoryview(bytearray(STRANGER_BYTES))
        self._stranger_bytes = 0

    def buffer(self) -> memoryview:
        if self.connection.is_open and len(self._cipher) < CIPHER_BYTES:
            self._cipher = memoryview(bytearray(CIPHER_BYTES))
        return self._cipher

    def received(self, nbytes: int) -> list[Received]:
        self._incoming.write(self._cipher[:nbytes])
        if not self.connection.is_open:
            self._watch_stranger(nbytes)
        if not self._shaken and not self._shake():
            return []
        return self._decrypted([])

    def resumed(self) -> list[Received]:
        return self._decrypted(self.connection.resumed())

    def handshake_bytes(self) -> bytes:
        if self._shaken or self._shake():
            out = self.connection.handshake_bytes()
            if out:
                self._write(out)
        return self._outgoing.read()

    def sealed(self, part: bytes | memoryview) -> bytes:
        self._write(part)
        return self._outgoing.read()

    def cut(self, what: str) -> ProtocolError:
        if not self._shaken:
            told = "before TLS was agreed on: most likely its TLS options are not those of this side"
            return AuthenticationError(f"{what} {told}")
        return self.connection.cut(what)

    def _watch_stranger(self, nbytes: int) -> None:
        if not self._stranger_bytes and self._cipher[0] not in _TLS_STARTS:
            start = bytes(self._cipher[: min(nbytes, 5)])
            if start[:4] == MAGIC[: len(start)]:
                raise FrameError("the peer does not speak TLS and this side does: give both sides the same TLS options")
            raise foreign(start)
        self._stranger_bytes += nbytes
        if self._stranger_bytes > self.connection.limits.tls_handshake_bytes:
            raise LimitError(f"{self._stranger_bytes} bytes came before the TLS handshake and the proofs were over")

    def _shake(self) -> bool:
        """One step of the TLS handshake; whether it is over."""
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise AuthenticationError(f"the TLS handshake failed: {_said(error)}") from None
        self.connection.bind_channel(self._tls.binding(self._ssl.getpeercert(binary_form=True)))
        self._shaken = True
        return True

    def _decrypted(self, whole: list[Received]) -> list[Received]:
        while not self.connection.is_held:
            view = self.connection.receive_buffer()
            try:
                nbytes = int(self._ssl.read(len(view), view))
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError as error:
                raise FrameError(f"the TLS stream is broken: {_said(error)}") from None
            if not nbytes:  # close_notify
                self.is_ended = True
                break
            whole += self.connection.received(nbytes)
        return whole

    def _write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[self._ssl.write(view) :]


def channel_of(connection: Connection, tls: Tls | None) -> Channel:
    """The channel of a connection, over TLS or plain."""
    return Channel(connection) if tls is None else TlsChannel(connection, tls)


def _said(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()
