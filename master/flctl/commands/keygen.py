"""`flctl keygen FILE`: a fresh secret for master and workers."""

from __future__ import annotations

from pathlib import Path

import click

from protocol.secret import new_secret, write_secret


@click.command(name="keygen")
@click.argument("file", type=click.Path(path_type=Path))
def command(*, file: Path) -> None:
    """Writes a new shared secret (32 random bytes) to FILE, readable by you alone.

    A worker that listens beyond this machine runs code that a master sends it, so both must hold the same secret.
    """
    write_secret(file, new_secret())
    click.echo(
        f"wrote {file} (mode 0600). Copy it to every machine over a safe channel, keep its mode, and start with\n"
        f"  scp -p {file} gpu1:\n"
        f"  flworker --host 0.0.0.0 --port 7000 --secret-file {file.name}      on gpu1\n"
        f"  flmaster --workers gpu1:7000 --secret-file {file} EXPERIMENT.toml"
    )
