"""The edge of real workers: hostile input of every kind is cut off at once, and nobody else notices."""

from __future__ import annotations

import re
import selectors
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from master.cli import main as flmaster
from protocol import Link, LinkSettings, dial
from protocol.tls import master_tls
from tests.chaos.hostile_input import (
    LIARS,
    STRANGERS,
    connected,
    drip,
    hello,
    resident_bytes,
    shaken,
    tls_hello,
    verdict,
)
from tests.conftest import Daemons, Process, until
from tests.protocol.certificates import Made, made_by_keygen
from worker.cli import main as flworker

pytestmark = [pytest.mark.net, pytest.mark.chaos, pytest.mark.timeout(120)]

AT_ONCE_S = 0.050
TRIES = 5
LORIS_S = 6.0
"""5 s of handshake, and what a machine that is busy needs to look."""


@dataclass(frozen=True)
class Edge:
    """Two workers with the same secret: one that speaks TLS and one that does not."""

    plain: Process
    tls: Process
    made: Made

    @property
    def secret(self) -> bytes:
        return bytes.fromhex(self.made.secret.read_text())

    async def master(self, tls: bool) -> Link:
        """A right master's link to one of them."""
        known = master_tls([self.made.fingerprint], None) if tls else None
        port = (self.tls if tls else self.plain).port
        return await dial("127.0.0.1", port, secret=self.secret, settings=LinkSettings(tls=known))


@pytest.fixture(scope="module")
def edge(module_daemons: Daemons, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """They outlive all that is done to them."""
    folder = tmp_path_factory.mktemp("edge")
    made = made_by_keygen(folder)
    options = ("--secret-file", str(made.secret), "--lz4")
    plain = module_daemons.worker(folder, *options)
    tls = module_daemons.worker(folder, *options, "--tls-cert", str(made.certificate), "--tls-key", str(made.key))
    module_daemons.listening(plain, tls)
    yield Edge(plain, tls, made)
    for worker in (plain, tls):
        assert worker.popen.poll() is None
        assert "Traceback" not in worker.said


@pytest.mark.parametrize("kind", STRANGERS)
def test_a_stranger_is_cut_off_at_once(edge: Edge, kind: str) -> None:
    """Within 50 ms of its last byte, with nothing in answer but, perhaps, a challenge to a right hello."""
    seen = [verdict(connected(edge.plain.port), STRANGERS[kind]) for _ in range(TRIES)]
    assert statistics.median(one.closed_after_s for one in seen) < AT_ONCE_S
    greets = kind.startswith("hello ")
    assert all(not one.answer or (greets and b"Challenge" in one.answer) for one in seen)


@pytest.mark.parametrize("kind", LIARS)
def test_a_peer_that_lies_is_cut_off_at_once(edge: Edge, kind: str) -> None:
    """The secret lets nobody past the limits, the schema or the order: 50 ms, and the memory of none of it."""
    says, reason = LIARS[kind]
    before, said = resident_bytes(edge.plain.pid), len(edge.plain.said)
    seen = [verdict(shaken(edge.plain.port, edge.secret), says) for _ in range(TRIES)]
    until(lambda: re.search(f"is gone: .*({reason})", edge.plain.said[said:]), reason, LORIS_S)
    assert statistics.median(one.closed_after_s for one in seen) < AT_ONCE_S
    assert resident_bytes(edge.plain.pid) - before < 16 << 20


def test_a_hello_cut_short_anywhere_ends_there(edge: Edge) -> None:
    """Truncated after each of its bytes: closed within 50 ms of the end, unanswered."""
    whole = hello()
    seen = [verdict(connected(edge.plain.port), whole[:k], then_ends=True) for k in range(len(whole))]
    assert not any(one.answer for one in seen)
    assert statistics.median(one.closed_after_s for one in seen) < AT_ONCE_S
    assert sorted(one.closed_after_s for one in seen)[-len(seen) // 20] < AT_ONCE_S  # 95 of 100, on a busy machine


def test_tls_and_plain_do_not_mix(edge: Edge) -> None:
    """A TLS hello to the plain port and a plain one to the TLS port: closed within 50 ms, and the log says which."""
    for port, says in ((edge.plain.port, tls_hello()), (edge.tls.port, hello()), (edge.tls.port, STRANGERS["HTTP"])):
        seen = [verdict(connected(port), says) for _ in range(TRIES)]
        assert not any(one.answer for one in seen)
        assert statistics.median(one.closed_after_s for one in seen) < AT_ONCE_S


async def test_two_hundred_slow_loris_are_gone_in_5_s_and_a_master_comes_in(edge: Edge) -> None:
    """Four of one address may wait, the rest is cut at once; when their time is up the next master is served."""
    for worker, is_tls in ((edge.plain, False), (edge.tls, True)):
        whole, start_s = tls_hello() if is_tls else hello(), time.perf_counter()
        socks = dict.fromkeys(drip([worker.port], 200), 0)
        at_once = 0
        with selectors.DefaultSelector() as selector:
            for sock in socks:
                selector.register(sock, selectors.EVENT_READ, sock)
            while selector.get_map() and time.perf_counter() - start_s < 2 * LORIS_S:
                for sock in list(socks):  # a byte each, at every turn
                    if sock.fileno() >= 0 and socks[sock] < len(whole) - 1:
                        _try_to_send(sock, whole[socks[sock] : socks[sock] + 1])
                        socks[sock] += 1
                for key, _ in selector.select(0.25):
                    at_once += time.perf_counter() - start_s < 2.0
                    sock = key.data
                    selector.unregister(sock)
                    sock.close()
        assert time.perf_counter() - start_s < LORIS_S
        assert at_once == 196
        link = await edge.master(is_tls)
        assert link.peer is not None
        await link.close("enough")


def _try_to_send(sock: socket.socket, data: bytes) -> None:
    with suppress(OSError):  # cut already
        sock.send(data)


async def test_after_all_that_they_serve_and_have_not_grown(edge: Edge) -> None:
    """A flood of 2,000 strangers: less than 16 MiB more, a log of some lines, and a master is served as before."""
    before, said = resident_bytes(edge.plain.pid), len(edge.plain.said)
    kinds = list(STRANGERS.values())
    for number in range(2000):
        verdict(connected(edge.plain.port), kinds[number % len(kinds)])
    assert resident_bytes(edge.plain.pid) - before < 16 << 20
    assert len(edge.plain.said) - said < 20_000
    link = await edge.master(tls=False)
    await link.close("enough")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (flworker, ("--port", "0", "--devices", "cpu", "--secret-file", "{secret}")),
        (flworker, ("--port", "0", "--devices", "cpu", "--tls-cert", "{certificate}", "--tls-key", "{key}")),
        (flmaster, ("--secret-file", "{secret}", "experiment.toml")),
    ],
)
def test_a_secret_that_others_can_read_is_refused(
    command: click.Command, options: tuple[str, ...], tmp_path: Path
) -> None:
    """Neither daemon starts with a secret or key of mode 0644: exit code 2, and one sentence with the remedy."""
    made = made_by_keygen(tmp_path)
    for path in (made.secret, made.key):
        path.chmod(0o644)
    named = [option.format(secret=made.secret, certificate=made.certificate, key=made.key) for option in options]
    result = CliRunner().invoke(command, named)
    assert result.exit_code == 2
    (line,) = result.output.strip().splitlines()
    assert "is open to others (mode 0644): chmod 600 /" in line


def test_half_of_tls_is_refused(edge: Edge) -> None:
    """A certificate without its key would be no TLS at all: the worker does not start without a word."""
    result = CliRunner().invoke(flworker, ["--port", "0", "--tls-cert", str(edge.made.certificate)])
    assert result.exit_code == 2
    assert "--tls-cert and --tls-key go together" in result.output
