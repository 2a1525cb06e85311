"""Weights & Biases: a run of the project that has the experiment's name; its id is the run's name.

`WANDB_MODE`, `WANDB_ENTITY`, … mean what they always mean. Without an API key the run is recorded offline, in the run's
folder, from where `wandb sync` sends it: nothing asks for a key while rounds go on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import wandb

from master.events import Metrics, RunFinished, RunStarted


class WandbRun:
    """One run there. Rounds are steps."""

    def __init__(self, started: RunStarted, settings: Mapping[str, Any]) -> None:
        mode: Any = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or started.name,
            id=started.run,
            name=started.label or started.run,
            group=started.algorithm,
            config=dict(settings),
            dir=started.folder,
            mode=mode,
            resume="allow" if started.first_round > 1 else None,
            reinit="create_new",  # several runs may be under way
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, round: int, metrics: Metrics, time_s: float) -> None:
        """The record as it is."""
        self._run.log({**metrics, "round": round, "time_s": time_s}, step=round)

    def finish(self, ended: RunFinished | None) -> None:
        """Say how it ended."""
        if ended is not None:
            self._run.summary["reason"] = ended.reason
        self._run.finish(exit_code=0 if ended is not None and ended.reason != "failed" else 1)


def open_run(started: RunStarted, settings: Mapping[str, Any]) -> WandbRun:
    """Begin the run, or go on with it."""
    return WandbRun(started, settings)


__all__ = ["WandbRun", "open_run"]
