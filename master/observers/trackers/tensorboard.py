"""TensorBoard: event files in the run's folder, so that `tensorboard --logdir runs` shows every run by its name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from master.events import Metrics, RunFinished, RunStarted
from master.flctl.stored_run import as_words


class TensorBoardRun:
    """One run's event files. Rounds are steps; those after a resume's first round are forgotten, and come again."""

    def __init__(self, started: RunStarted, settings: Mapping[str, Any]) -> None:
        folder = Path(started.folder) / "tensorboard"
        first = started.first_round
        self._writer = SummaryWriter(str(folder), purge_step=first if first > 1 else None)
        rows = "\n".join(f"| {key} | {as_words(value)} |" for key, value in settings.items())
        self._writer.add_text("experiment", f"| key | value |\n|---|---|\n{rows}", first - 1)

    def log(self, round: int, metrics: Metrics, time_s: float) -> None:
        """Each metric is a scalar of its name."""
        for name, value in metrics.items():
            if name != "round":
                self._writer.add_scalar(name, value, round, walltime=time_s)

    def finish(self, ended: RunFinished | None) -> None:
        """Write all to the disk."""
        self._writer.close()


def open_run(started: RunStarted, settings: Mapping[str, Any]) -> TensorBoardRun:
    """Begin the run, or go on with it."""
    return TensorBoardRun(started, settings)


__all__ = ["TensorBoardRun", "open_run"]
