"""flworker: the command line of the worker daemon."""

from __future__ import annotations

import asyncio
import gc
import sys
from pathlib import Path

import click

from deploy.log_file import log_to
from protocol.errors import FlspanError, InputError
from protocol.secret import Secret, read_secret
from protocol.tls import Tls, worker_tls


@click.command(context_settings={"auto_envvar_prefix": "FLWORKER", "show_default": True})
@click.option("--port", type=click.IntRange(0, 65535), required=True, help="Port to listen on; 0 picks a free one.")
@click.option("--host", default="127.0.0.1", help="Address to listen on; beyond loopback a secret is required.")
@click.option("--devices", default="auto", help="auto, cpu, or a list like cuda:0,cuda:1.")
@click.option(
    "--threads-per-device",
    type=click.IntRange(1),
    help="Slots on each device.  [default: CPU cores, 4 a GPU]",
)
@click.option(
    "--secret-file",
    type=click.Path(path_type=Path),
    help="File with the secret shared with the master (0600).",
)
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Speak TLS 1.3 with this certificate (PEM).")
@click.option("--tls-key", type=click.Path(path_type=Path), help="The certificate's key (PEM, 0600).")
@click.option("--data-root", type=click.Path(path_type=Path), help="Folder where data sets are looked for first.")
@click.option("--user-code/--no-user-code", default=True, help="Run the files that an authenticated master ships.")
@click.option("--lz4", is_flag=True, help="Compress buffers where the master offers it too and a sample shows it pays.")
@click.option("--log-file", type=click.Path(path_type=Path), help="Write the log there, not to stderr; it rotates.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
@click.option("--metrics-port", type=click.IntRange(1, 65535), help="Answer Prometheus on that port.")
@click.option("--metrics-host", default="127.0.0.1", help="And on that address; whoever reaches it may read.")
@click.option("--spawned", is_flag=True, hidden=True, help="Read the secret from standard input; leave when it ends.")
@click.version_option(package_name="flspan")
def main(
    *,
    log_file: Path | None,
    log_level: str,
    secret_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    spawned: bool,
    **options: object,
) -> None:
    """A worker: waits for flmaster and trains the clients it is given.

    \b
      flworker --port 7000
    """
    try:
        log_to(log_file, log_level)
        gc.disable()  # importing torch makes a million objects that stay: no use to look for garbage meanwhile
        from worker.daemon import Daemon, WorkerOptions  # imports torch: --help need not wait for it

        gc.freeze()
        gc.enable()
        secret = None if secret_file is None else read_secret(secret_file)
        tls = _tls(tls_cert, tls_key)
        if spawned:
            secret = Secret.fromhex(sys.stdin.readline())

        async def serve() -> None:
            settings = WorkerOptions(secret=secret, tls=tls, spawned=spawned, **options)  # type: ignore[arg-type]  # click has checked
            await Daemon(settings).run()

        asyncio.run(serve())
    except InputError as error:
        click.echo(f"flworker: {error}", err=True)
        sys.exit(2)
    except (FlspanError, OSError) as error:
        click.echo(f"flworker: {error}", err=True)
        sys.exit(1)


def _tls(certificate: Path | None, key: Path | None) -> Tls | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise InputError("--tls-cert and --tls-key go together: flctl keygen makes both")
    return worker_tls(certificate, key)


if __name__ == "__main__":
    main()
