"""Engines that can place workers: a file is a launcher, found by its name (`flctl launch --on NAME`)."""

from __future__ import annotations

import importlib
from pathlib import Path

from deploy.launchers.launcher import Launcher, LaunchOptions
from protocol.errors import InputError

_NO_ENGINE = {"launcher", "kept_worker", "hosted"}


def engines() -> list[str]:
    """Their names, sorted."""
    stems = {path.stem for path in Path(__file__).parent.glob("*.py")}
    return sorted(stem for stem in stems - _NO_ENGINE if not stem.startswith("_"))


def launcher(engine: str, options: LaunchOptions) -> Launcher:
    """The engine's launcher, not started. Raises InputError: its package is not installed, or an option is wrong."""
    try:
        module = importlib.import_module(f"deploy.launchers.{engine}")
    except ImportError as error:
        if error.name is not None and error.name.split(".")[0] in ("deploy", "protocol"):
            raise
        raise InputError(f"--on {engine} needs {error.name}: pip install 'flspan[{engine}]'") from None
    made: Launcher = module.make(options)
    return made


__all__ = ["LaunchOptions", "Launcher", "engines", "launcher"]
