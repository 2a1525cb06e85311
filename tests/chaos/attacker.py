"""Attacks workers until it is killed: `python -m tests.chaos.attacker PORT…`.

200 connections drip a right hello, a byte each a second; one that is cut comes back a second later. Beside them
every kind of hostile input of `hostile_input`, twenty a second.
"""

from __future__ import annotations

import itertools
import os
import socket
import sys
import time
from contextlib import suppress

from tests.chaos.hostile_input import STRANGERS, drip, hello, tls_hello

LORIS = 200
PER_S = 20


def attack(ports: list[int]) -> None:
    """For ever."""
    os.nice(19)  # what is measured is what the workers do, not that this process computes too
    whole = tls_hello()
    kinds = itertools.cycle([*STRANGERS.values(), hello(), whole])
    targets = itertools.cycle(ports)
    socks = drip(ports, LORIS)
    for tick in itertools.count():
        due_s = time.monotonic() + 1 / PER_S
        with socket.create_connection(("127.0.0.1", next(targets)), 5.0) as stranger, suppress(OSError):
            stranger.sendall(next(kinds))
            stranger.recv(4096)
        for k in range(tick % PER_S, LORIS, PER_S):  # each of them once a second
            try:
                socks[k].send(whole[tick // PER_S % len(whole) :][:1])
            except OSError:
                socks[k].close()
                (socks[k],) = drip([next(targets)], 1)
        time.sleep(max(0.0, due_s - time.monotonic()))


if __name__ == "__main__":
    attack([int(port) for port in sys.argv[1:]])
