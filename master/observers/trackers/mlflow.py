"""MLflow: a run of the experiment of that name, in `MLFLOW_TRACKING_URI` or in `mlflow.db` beside the run folders."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nobody asked for a word to anyone else

from mlflow.entities import Experiment, Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from master.events import Metrics, RunFinished, RunStarted
from master.flctl.stored_run import as_words

_TAG = "flspan.run"
_MOST_PARAMS, _LONGEST_PARAM = 100, 500
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


class MlflowRun:
    """One run there. Rounds are steps; a resumed run goes on in the same one."""

    def __init__(self, started: RunStarted, settings: Mapping[str, Any]) -> None:
        for noisy in ("alembic", "mlflow.store.db.utils"):  # a line a table of a new database
            logging.getLogger(noisy).setLevel(logging.WARNING)
        runs = Path(started.folder).resolve().parents[1]
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{runs / 'mlflow.db'}")
        experiment_id = self._experiment(started.name, runs / "mlflow-artifacts")
        self._id = (self._earlier(experiment_id, started.run) if started.first_round > 1 else None) or self._new(
            experiment_id, started, settings
        )

    def _experiment(self, name: str, artifacts: Path) -> str:
        found: Experiment | None = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        return str(self._client.create_experiment(name, artifact_location=artifacts.as_uri()))

    def _earlier(self, experiment_id: str, run: str) -> str | None:
        found = self._client.search_runs([experiment_id], f"tags.`{_TAG}` = '{run}'", max_results=1)
        if not found:
            return None
        run_id = str(found[0].info.run_id)
        self._client.update_run(run_id, status="RUNNING")
        return run_id

    def _new(self, experiment_id: str, started: RunStarted, settings: Mapping[str, Any]) -> str:
        tags = {_TAG: started.run, "flspan.folder": started.folder}
        run = self._client.create_run(experiment_id, tags=tags, run_name=started.label or started.run)
        run_id = str(run.info.run_id)
        params = [Param(key, as_words(value)[:_LONGEST_PARAM]) for key, value in settings.items()]
        for first in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(run_id, params=params[first : first + _MOST_PARAMS])
        return run_id

    def log(self, round: int, metrics: Metrics, time_s: float) -> None:
        """The record in one request."""
        milliseconds = int(1000 * time_s)
        batch = [Metric(name, float(value), milliseconds, round) for name, value in metrics.items() if name != "round"]
        self._client.log_batch(self._id, metrics=batch)

    def finish(self, ended: RunFinished | None) -> None:
        """Say how it ended."""
        reason = "failed" if ended is None else ended.reason
        self._client.log_batch(self._id, tags=[RunTag("flspan.reason", reason)])
        self._client.set_terminated(self._id, _STATUS.get(reason, "FAILED"))


def open_run(started: RunStarted, settings: Mapping[str, Any]) -> MlflowRun:
    """Begin the run, or go on with it."""
    return MlflowRun(started, settings)


__all__ = ["MlflowRun", "open_run"]
