"""Options that several subcommands share."""

from __future__ import annotations

from pathlib import Path

import click

runs_dir_option = click.option(
    "--runs-dir",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    envvar="FLCTL_RUNS_DIR",
    help="Where run folders are looked for by name.",
)
where_option = click.option(
    "--where",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only runs with this setting or last metric; also != < <= > >= and ~ (contains). Repeatable.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
run_argument = click.argument("run")
runs_argument = click.argument("runs", nargs=-1, metavar="RUN...")

__all__ = ["json_option", "run_argument", "runs_argument", "runs_dir_option", "where_option"]
