"""flctl: everything that is not a daemon. A file of `commands` is a subcommand, found by its name."""

from master.flctl.group import main

__all__ = ["main"]
