"""Asking a worker how it is, without being its master: the handshake says it all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from protocol.address import parse_address
from protocol.errors import FlspanError
from protocol.fields import WorkerInfo
from protocol.secret import read_secret
from protocol.settings import LinkSettings
from protocol.tls import master_tls
from protocol.transport import dial

address_argument = click.argument("address", metavar="HOST:PORT")
secret_option = click.option(
    "--secret-file",
    type=click.Path(path_type=Path),
    help="File with the secret shared with the worker (0600).",
)
fingerprint_option = click.option(
    "--tls-fingerprint",
    "tls_fingerprints",
    multiple=True,
    metavar="SHA256",
    help="Over TLS, to a worker with this certificate (repeatable).",
)
ca_option = click.option(
    "--tls-ca",
    type=click.Path(path_type=Path),
    help="Over TLS, to a worker whose certificate is in this file or signed by one in it.",
)


@dataclass(frozen=True)
class Credentials:
    """What a worker wants to see, and what it must show."""

    secret_file: Path | None
    tls_fingerprints: tuple[str, ...]
    tls_ca: Path | None

    def read(self) -> tuple[bytes | None, LinkSettings]:
        """The secret, and settings of a link. Raises InputError: a file or a fingerprint is not what it should be."""
        secret = None if self.secret_file is None else read_secret(self.secret_file)
        if not self.tls_fingerprints and self.tls_ca is None:
            return secret, LinkSettings()
        return secret, LinkSettings(tls=master_tls(self.tls_fingerprints, self.tls_ca))


@dataclass(frozen=True)
class Visit:
    """What came of it: the worker's own words and how long they took, or why there are none."""

    address: str
    info: WorkerInfo | None = None
    answer_s: float = 0.0
    error: str = ""

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        if self.info is None:
            return {"address": self.address, "error": self.error}
        import msgspec

        told: dict[str, Any] = msgspec.to_builtins(self.info)
        return {"address": self.address, "answer_s": self.answer_s, **told}


def visit_all(addresses: Sequence[str], credentials: Credentials) -> list[Visit]:
    """Ask all at once. Raises InputError: an address or the secret is none."""
    secret, settings = credentials.read()
    places = [(address, *parse_address(address, "")) for address in addresses]

    async def all_of_them() -> list[Visit]:
        return list(await asyncio.gather(*(_visit(*place, secret, settings) for place in places)))

    return asyncio.run(all_of_them())


async def _visit(address: str, host: str, port: int, secret: bytes | None, settings: LinkSettings) -> Visit:
    started_s = time.perf_counter()
    try:
        link = await dial(host, port, secret=secret, settings=settings, visits=True)
    except FlspanError as error:
        return Visit(address, error=str(error))
    answer_s = time.perf_counter() - started_s
    info = link.peer
    await link.close("thank you")
    return Visit(address, info, answer_s)
