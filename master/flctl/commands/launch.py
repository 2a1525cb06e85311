"""`flctl launch --on ENGINE`: workers on what a lab has, for as long as they are wanted."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from deploy.launchers import LaunchOptions, engines, launcher
from master.flctl.launching import Launch
from protocol.secret import new_secret, read_secret


@click.command(name="launch")
@click.argument("master_words", nargs=-1, metavar="[-- FLMASTER OPTIONS EXPERIMENT.toml]")
@click.option("--on", "engine", type=click.Choice(engines()), required=True, help="Who places the workers.")
@click.option(
    "-n", "--count", type=click.IntRange(1, 4096), help="Workers.  [default: the hosts, Dask's workers, or 1]"
)
@click.option("--at", default="", help="The Ray or Dask cluster's address, or the hosts file of ssh.")
@click.option("--devices", default="auto", help="Of each worker, as flworker has it.")
@click.option("--threads-per-device", type=click.IntRange(1), help="Of each worker, as flworker has it.")
@click.option("--data-root", help="Of each worker, on its machine.")
@click.option("--cpus", type=click.IntRange(0), help="CPU cores that the engine sets aside for each worker.")
@click.option("--gpus", type=click.IntRange(0), help="GPUs that the engine sets aside for each worker.")
@click.option(
    "--port", type=click.IntRange(0, 61439), default=0, help="Worker k listens on PORT + k; 0: any free port."
)
@click.option(
    "--engine-option",
    "engine_options",
    multiple=True,
    metavar="WORD",
    help="A word for ssh or srun, as in --engine-option=--partition=gpu (repeatable).",
)
@click.option("--flworker", default="", help="The command on the engine's machines, where it is elsewhere than here.")
@click.option("--secret-file", type=click.Path(path_type=Path), help="Use this secret, not a fresh one.")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Keep addresses and logs there, not in a folder that goes."
)
def command(
    *, engine: str, master_words: tuple[str, ...], secret_file: Path | None, folder: Path | None, **given: Any
) -> None:
    """Starts workers through an engine, runs flmaster on them, and ends them when it has ended.

    \b
      flctl launch --on local -n 2 -- examples/digits.toml
      flctl launch --on ssh --at hosts.txt -- --no-dashboard experiment.toml
      flctl launch --on slurm -n 8 --gpus 1 --engine-option=--partition=gpu -- experiment.toml
      flctl launch --on ray -n 4 --gpus 1

    Without an experiment it prints the line to run, and keeps the workers until Ctrl-C. Workers that die or that the
    engine moves are followed: the master reads their addresses again. Nothing is left behind, here or there.
    """
    secret = new_secret() if secret_file is None else read_secret(secret_file)
    with tempfile.TemporaryDirectory(prefix="flspan-launch-") as passing:
        place = Path(passing) if folder is None else folder
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        options = LaunchOptions(
            count=given["count"] or 0,
            secret=secret,
            log_folder=place,
            at=given["at"],
            worker_options=_worker_options(given),
            first_port=given["port"],
            engine_options=given["engine_options"],
            cpus=given["cpus"],
            gpus=given["gpus"],
            flworker=given["flworker"],
        )
        launch = Launch(launcher(engine, options), place, Path(passing) / "secret", secret)
        sys.exit(launch.run(master_words))


def _worker_options(given: dict[str, Any]) -> tuple[str, ...]:
    names = {"devices": "--devices", "threads_per_device": "--threads-per-device", "data_root": "--data-root"}
    return tuple(word for key, name in names.items() if given[key] is not None for word in (name, str(given[key])))
