"""`flctl ui`: the workbench in the terminal."""

from __future__ import annotations

from pathlib import Path

import click

from master.flctl.options import runs_dir_option
from protocol.errors import InputError


@click.command(name="ui")
@click.argument("experiment", required=False, type=click.Path(path_type=Path))
@runs_dir_option
def command(*, experiment: Path | None, runs_dir: Path) -> None:
    """Configure an experiment in forms, launch it, watch it, analyse and plot runs.

    \b
      flctl ui                          begins with an experiment that runs as it is
      flctl ui examples/digits.toml

    It starts flmaster as a process and reads run folders: all it does can be done by a command, and it shows which.
    """
    try:
        import textual  # noqa: F401  only this command needs it
    except ImportError:
        raise InputError("ui needs textual: pip install 'flspan[ui]'") from None
    from fl_core.plugins import verify_house
    from master.workbench.app import Workbench
    from master.workbench.draft import Draft

    verify_house()
    Workbench(Draft.new() if experiment is None else Draft.read(experiment), runs_dir).run()
