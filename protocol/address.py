"""Where a worker is, as a user writes it."""

from __future__ import annotations

from protocol.errors import InputError


def parse_address(address: str, where: str = "--workers ") -> tuple[str, int]:
    """ "host:port" or "[v6]:port" as its two parts. Raises InputError, which begins with `where` it was written."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(f"{where}{address}: write host:port, as in gpu1:7000")
    return host.strip("[]"), int(port)
