"""What may be set on a link: times, limits and offers, and the options of its socket."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from protocol.budget import ReceiveBudget
from protocol.frames import Limits
from protocol.tls import Tls


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """Times, limits and offers of a link.

    A worker that is stopped or cut off is noticed after ``dead_after_s`` without a byte, a dead process at
    once. ``user_timeout_s`` is how long the kernel waits for a peer that acknowledges nothing or keeps its
    window shut: longer than the heartbeat needs, since a peer whose disk is slow for a while is not lost.
    Reading stops while ``inbox_messages`` messages or ``inbox_bytes`` of bodies wait for the owner, and while
    ``budget``, which other links may share, has no room for the next body. A message that was begun must come on
    at ``slowest_bytes_per_s`` on average over ``slowest_over_s``: even over a hundred links that share 10 Mbit/s
    one is three times faster. Before the handshake is over there may be ``unauthenticated_connections``, and of
    one address ``unauthenticated_per_address``.
    """

    heartbeat_s: float = 1.0
    dead_after_s: float = 5.0
    connect_timeout_s: float = 5.0
    handshake_timeout_s: float = 5.0
    close_timeout_s: float = 2.0
    user_timeout_s: float = 30.0
    inbox_messages: int = 256
    inbox_bytes: int = 64 << 20
    outbox_messages: int = 1024
    unauthenticated_connections: int = 32
    unauthenticated_per_address: int = 4
    slowest_bytes_per_s: float = 4096.0
    slowest_over_s: float = 30.0
    codecs: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    tls: Tls | None = None
    budget: ReceiveBudget | None = None


def set_kernel_timeouts(sock: socket.socket | None, user_timeout_s: float) -> None:
    """Let the kernel notice a link that is cut, idle or with something unacknowledged on its way."""
    if sock is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", 5),
        ("TCP_KEEPINTVL", 2),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", round(1000 * user_timeout_s)),
    ):
        if hasattr(socket, option):  # not every system has all of them; the heartbeat works on each
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
