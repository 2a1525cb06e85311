"""The subcommands of flctl: one file each, named as the subcommand, with one click command called `command`."""
