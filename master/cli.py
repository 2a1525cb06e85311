"""flmaster: the command line of the master daemon."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import click

from deploy.log_file import log_to
from master.runs import check_data_root, check_runs_dir
from master.spawn import SpawnedWorkers, spawn_arguments
from protocol.errors import FlspanError, InputError
from protocol.secret import read_secret
from protocol.tls import Tls, master_tls


@click.command(context_settings={"auto_envvar_prefix": "FLMASTER", "show_default": True})
@click.argument("experiment", type=click.Path(path_type=Path))
@click.option(
    "--workers",
    default="",
    help="host:port,host:port of running flworkers; @FILE names a file of them, read again when it changes.",
)
@click.option(
    "--spawn",
    type=click.IntRange(0, 256),
    default=0,
    help="Start N workers on this machine for the time of the run.",
)
@click.option(
    "--devices",
    default="auto",
    help="Local pools: auto, cpu, none (workers only), or cuda:0,cuda:1. With --spawn, auto means none.",
)
@click.option(
    "--threads-per-device",
    type=click.IntRange(1),
    help="Slots on each local device.  [default: CPU cores, 4 a GPU]",
)
@click.option("--reference", is_flag=True, help="Run the specification: Algorithm 1 in one thread, no worker.")
@click.option("--data-root", type=click.Path(path_type=Path), help="Folder where data sets are looked for first.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="A.B=VALUE",
    help="Override a key of the experiment (repeatable).",
)
@click.option("--runs-dir", type=click.Path(path_type=Path), default=Path("runs"), help="Where run folders are made.")
@click.option(
    "--resume/--no-resume",
    default=True,
    help="Go on with unfinished runs and skip finished ones, or start anew.",
)
@click.option(
    "--parallel-runs",
    type=click.IntRange(1, 64),
    default=1,
    help="Runs of the sweep under way at once, on the same workers; changes no number but times.",
)
@click.option(
    "--dashboard/--no-dashboard",
    default=True,
    help="Live dashboard on a terminal; plain lines elsewhere anyway.",
)
@click.option(
    "--secret-file",
    type=click.Path(path_type=Path),
    help="File with the secret shared with the workers (0600).",
)
@click.option(
    "--tls-fingerprint",
    "tls_fingerprints",
    multiple=True,
    metavar="SHA256",
    help="Speak TLS 1.3 with the workers; their certificate has this fingerprint (repeatable).",
)
@click.option(
    "--tls-ca",
    type=click.Path(path_type=Path),
    help="The same, with a PEM file of the workers' certificates or of those that signed them.",
)
@click.option("--lz4", is_flag=True, help="Compress buffers where the worker offers it too and a sample shows it pays.")
@click.option(
    "--log-file", type=click.Path(path_type=Path), help="Write warnings of the daemon itself there; it rotates."
)
@click.option(
    "--track", default="", metavar="NAME,NAME", help="Hand every record to tensorboard, wandb or mlflow as well."
)
@click.option("--metrics-port", type=click.IntRange(1, 65535), help="Answer Prometheus on that port.")
@click.option("--metrics-host", default="127.0.0.1", help="And on that address; whoever reaches it may read.")
@click.version_option(package_name="flspan")
def main(
    *,
    experiment: Path,
    workers: str,
    spawn: int,
    overrides: tuple[str, ...],
    secret_file: Path | None,
    log_file: Path | None,
    **options: Any,
) -> None:
    """Runs EXPERIMENT (a TOML file), every run of its sweep, on local devices and on all workers.

    \b
      flmaster examples/digits.toml
      flmaster --spawn 2 examples/digits.toml
      flmaster --workers gpu1:7000,gpu2:7000 experiment.toml
    """
    try:
        log_to(log_file, "warning")
        if log_file is None:  # what is said of fusing is said by an event, once a machine, in the lines of the run
            logging.getLogger("flspan.execution").setLevel(logging.ERROR)
        secret = None if secret_file is None else read_secret(secret_file)
        options["track"] = tuple(name.strip() for name in options["track"].split(",") if name.strip())
        options["tls"] = _tls(options.pop("tls_fingerprints"), options.pop("tls_ca"))

        async def run() -> int:
            async with AsyncExitStack() as stack:
                is_alone = not spawn or options["reference"]
                spawned = None if is_alone else await _spawned(stack, spawn, options)
                gc.disable()  # importing torch makes a million objects that stay: no use to look for garbage meanwhile
                from fl_core.experiment.reading import read_experiments  # torch: --help need not wait for it
                from fl_core.plugins import verify_house
                from master.daemon import Master
                from master.options import MasterOptions

                gc.freeze()
                gc.enable()
                verify_house()
                addresses = tuple(part.strip() for part in workers.split(",") if part.strip())
                command_line = tuple(sys.argv)
                settings = MasterOptions(workers=addresses, secret=secret, command_line=command_line, **options)
                experiments = read_experiments(experiment, overrides)
                return await Master(settings, sys.stdout, spawned).run(experiments)

        sys.exit(asyncio.run(run()))
    except InputError as error:
        click.echo(f"flmaster: {error}", err=True)
        sys.exit(2)
    except (FlspanError, OSError) as error:
        click.echo(f"flmaster: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:  # before there was anything to save
        sys.exit(130)


def _tls(fingerprints: tuple[str, ...], trusted: Path | None) -> Tls | None:
    return master_tls(fingerprints, trusted) if fingerprints or trusted else None


async def _spawned(stack: AsyncExitStack, count: int, options: dict[str, Any]) -> SpawnedWorkers:
    """Launch the workers first: while they import torch, so does this process."""
    arguments = spawn_arguments(count, options["threads_per_device"], options["data_root"])
    check_runs_dir(options["runs_dir"])
    check_data_root(options["data_root"])
    workers = SpawnedWorkers(count, options["runs_dir"] / "worker-logs", arguments)
    stack.push_async_callback(workers.close)
    await workers.launch()
    return workers


if __name__ == "__main__":
    main()
