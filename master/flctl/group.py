"""The command `flctl` itself: finds its subcommands by listing a folder, and turns errors into exit codes.

A subcommand's module is imported when it is used, and imports torch or matplotlib inside its function if it needs
them: `flctl runs` must answer at once.
"""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from typing import Any

import click

from protocol.errors import FlspanError, InputError


class Subcommands(click.Group):
    """The files of `master/flctl/commands`, each with a click command named `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The files' names, sorted."""
        folder = Path(__file__).parent / "commands"
        return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that file, or None."""
        if cmd_name not in self.list_commands(ctx):
            return None
        found: click.Command = importlib.import_module(f"master.flctl.commands.{cmd_name}").command
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click has it, with the nearest name in the error."""
        names = self.list_commands(ctx)
        if args and args[0] not in names and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], names, n=1)
            hint = f'did you mean "{near[0]}"?' if near else f"there are: {', '.join(names)}"
            raise InputError(f'there is no command "{args[0]}"; {hint}')
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand. Exit code 2: the input is wrong; 1: something failed."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # `flctl runs | head`: click knows what to do
        except InputError as error:
            click.echo(f"flctl: {error}", err=True)
            ctx.exit(2)
        except (FlspanError, OSError) as error:
            click.echo(f"flctl: {error}", err=True)
            ctx.exit(1)


@click.group(
    cls=Subcommands,
    context_settings={"auto_envvar_prefix": "FLCTL", "show_default": True, "help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="flspan")
def main() -> None:
    """Looks at runs, plots them, and checks what you wrote.

    \b
      flctl runs --where algorithm.name=diana --sort grad_norm
      flctl plot runs/fig2 -x bits_up -y grad_norm -o fig2.pdf
      flctl new my_method && flctl check my_method.py

    RUN is a folder, a run's name, or the beginning of one; a folder of runs stands for all runs in it.
    """


__all__ = ["main"]
