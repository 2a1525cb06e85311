"""What a supervisor is told: systemd's notification protocol (sd_notify), which others speak too. No library needed."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def notify(*assignments: str) -> bool:
    """Send "READY=1", "STATUS=…", "STOPPING=1" to the supervisor of $NOTIFY_SOCKET; False when there is none.

    A supervisor that does not listen costs the daemon nothing.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]  # a name of the abstract namespace
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto("\n".join(assignments).encode(), address)
        return True
    return False
