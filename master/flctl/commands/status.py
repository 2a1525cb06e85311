"""`flctl status HOST:PORT…`: what workers are and what they do now."""

from __future__ import annotations

import sys
from typing import Any

import click

from master.flctl.options import json_option
from master.flctl.tables import print_json, print_rows
from master.flctl.visiting import Credentials, Visit, ca_option, fingerprint_option, secret_option, visit_all

_COLUMNS = (
    *("address", "state", "busy", "tasks", "run", "master", "devices"),
    *("host", "uptime_s", "flspan", "torch", "python", "pid"),
)


@click.command(name="status")
@click.argument("addresses", nargs=-1, required=True, metavar="HOST:PORT...")
@secret_option
@fingerprint_option
@ca_option
@json_option
def command(*, addresses: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Shows workers as they are at this moment: state, load, current run and its master, devices, versions.

    \b
      flctl status gpu1:7000 gpu2:7000 --secret-file flspan.secret

    The exit code is 1 if one did not answer.
    """
    visits = visit_all(addresses, Credentials(**given))
    silent = [visit for visit in visits if visit.info is None]
    if as_json:
        print_json([visit.as_json() for visit in visits])
    else:
        if len(silent) < len(visits):
            print_rows(_COLUMNS, [_row(visit) for visit in visits if visit.info is not None])
        for visit in silent:
            click.echo(f"flctl: {visit.error}", err=True)
    sys.exit(1 if silent else 0)


def _row(visit: Visit) -> dict[str, Any]:
    info = visit.info
    assert info is not None
    return {
        "address": visit.address,
        "state": info.state,
        "busy": f"{min(info.busy, info.slots)}/{info.slots}",
        "tasks": info.tasks,
        "run": info.run,
        "master": info.master,
        "devices": ",".join(info.devices),
        "host": info.name,
        "uptime_s": info.uptime_s,
        "flspan": info.version,
        "torch": info.torch,
        "python": info.python,
        "pid": info.pid,
    }
