"""`flctl rm RUN…`: run folders deleted, after a question."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import click

from master.flctl.conditions import selected
from master.flctl.finding import find_runs
from master.flctl.options import runs_argument, runs_dir_option, where_option
from master.flctl.stored_run import StoredRun
from master.runs import RunLock
from protocol.errors import InputError


@click.command(name="rm")
@runs_argument
@runs_dir_option
@where_option
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def command(*, runs: tuple[str, ...], runs_dir: Path, where: tuple[str, ...], yes: bool) -> None:
    """Deletes the folders of runs. One that is running is refused, and then none is deleted."""
    if not runs:
        raise InputError("rm needs at least one RUN (or a folder of runs)")
    found = selected(find_runs(runs, runs_dir), where)
    if not found:
        raise InputError("no run meets every --where")
    running = [run.name for run in found if run.status == "running"]
    if running:
        raise InputError(f"{', '.join(running)}: still running; stop flmaster first")
    for run in found:
        click.echo(f"{run.path}   {run.status}, {run.rounds} rounds")
    if not yes and not click.confirm(f"Delete {'this run' if len(found) == 1 else f'these {len(found)} runs'}?"):
        click.echo("nothing was deleted")
        return
    for run in found:
        _delete(run)
    click.echo(f"deleted {len(found)} {'run' if len(found) == 1 else 'runs'}")


def _delete(run: StoredRun) -> None:
    if run.path.is_symlink():
        raise InputError(f"{run.path} is a link, not a run folder; delete it yourself")
    with RunLock(run.path):  # no flmaster can take the folder up while it goes away
        shutil.rmtree(run.path)
    with suppress(OSError):
        run.path.parent.rmdir()  # the experiment's folder, if this was its last run
