"""`flctl ping HOST:PORT`: whether a worker is there and holds the same secret; for health checks."""

from __future__ import annotations

from typing import Any

import click

from master.flctl.visiting import (
    Credentials,
    address_argument,
    ca_option,
    fingerprint_option,
    secret_option,
    visit_all,
)
from protocol.errors import RunError


@click.command(name="ping")
@address_argument
@secret_option
@fingerprint_option
@ca_option
def command(*, address: str, **given: Any) -> None:
    """Says whether the worker at HOST:PORT answers and holds the same secret: exit code 0, else 1.

    It does not disturb the worker, busy or not.
    """
    (visit,) = visit_all([address], Credentials(**given))
    if visit.info is None:
        raise RunError(visit.error)
    click.echo(f"{address} is {visit.info.state}: answered in {1000 * visit.answer_s:.1f} ms")
