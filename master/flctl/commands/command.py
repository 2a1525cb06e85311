"""`flctl command RUN`: the command line that runs it again."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from master.flctl.finding import find_run
from master.flctl.options import run_argument, runs_dir_option
from master.flctl.stored_run import StoredRun

_DROPPED = ("experiment", "overrides", "runs_dir", "resume", "log_file", "dashboard")
"""What the resolved file already says, or what would write into the old folder."""


@click.command(name="command")
@run_argument
@runs_dir_option
@click.option("--into", default="reproduced", metavar="DIR", help="The new run's --runs-dir.")
@click.option("--original", is_flag=True, help="Print the command as it was typed then, with its folder.")
def command(*, run: str, runs_dir: Path, into: str, original: bool) -> None:
    """Prints the flmaster command that runs RUN again, alone, from its resolved experiment file.

    \b
      eval "$(flctl command RUN)" && flctl diff RUN reproduced
    """
    found = find_run(run, runs_dir)
    if original:
        typed = [str(part) for part in found.environment.get("command_line", [])]
        click.echo(f"cd {shlex.quote(str(found.environment.get('folder', '.')))} && {shlex.join(_short(typed))}")
        return
    click.echo(shlex.join(again(found, into)))
    for text in _differences(found):
        click.echo(f"# {text}", err=True)


def again(run: StoredRun, into: str) -> list[str]:
    """The words of the command. Options of the first start are kept where they say how to run, not what."""
    words = ["flmaster", *_kept_options(run), "--runs-dir", into]
    return [*words, str((run.path / "experiment.toml").resolve())]


def _kept_options(run: StoredRun) -> list[str]:
    from master.cli import main as flmaster  # its own parser knows what each word of the old command line means

    typed = [str(part) for part in run.environment.get("command_line", [])][1:]
    folder = Path(run.environment.get("folder", "."))
    context = flmaster.make_context("flmaster", list(typed), resilient_parsing=True)
    words: list[str] = []
    for parameter in flmaster.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name not in _DROPPED and isinstance(parameter, click.Option):
            words += _words(parameter, context.params[name], folder)
    return words


def _words(option: click.Option, value: Any, folder: Path) -> list[str]:
    if option.is_flag:
        return [option.opts[0]] if value else list(option.secondary_opts[:1])
    if isinstance(value, Path):
        value = folder / value  # relative to where the first command was typed
    return [option.opts[0], str(value)]


def _short(typed: Sequence[str]) -> list[str]:
    return [Path(typed[0]).name, *typed[1:]] if typed else []


def _differences(run: StoredRun) -> list[str]:
    """What is not as it was: versions of the packages that numbers may depend on."""
    from master.runs import environment

    now = environment([], [])
    told = []
    if (python := run.environment.get("python")) not in (None, now["python"]):
        told.append(f"made with Python {python}; this is {sys.version.split()[0]}")
    for name, version in run.environment.get("packages", {}).items():
        if now["packages"].get(name) != version:
            told.append(f"made with {name} {version}; here is {now['packages'].get(name, 'none')}")
    return told
