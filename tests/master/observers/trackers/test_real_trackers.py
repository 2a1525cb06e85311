"""The trackers themselves, offline: what flmaster hands them is read back with their own tools."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from master.observers.metrics_jsonl import read_metrics
from tests.conftest import small_experiment

ROOT = Path(__file__).resolve().parents[4]
pytestmark = pytest.mark.timeout(200)
needs = {
    name: pytest.mark.skipif(find_spec(name) is None, reason=f"the optional extra {name} is not installed")
    for name in ("tensorboard", "wandb", "mlflow")
}

Track = Callable[[str], Path]


@pytest.fixture
def track(tmp_path: Path) -> Track:
    """`track("wandb")`: flmaster as a process; the folder of its run."""

    def call(name: str) -> Path:
        (tmp_path / "t.toml").write_text(small_experiment().to_toml())
        command = [sys.executable, "-m", "master.cli", "--reference", "--no-dashboard", "--track", name]
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "MLFLOW_"))}
        done = subprocess.run(
            [*command, "t.toml"],
            cwd=tmp_path,
            env={**kept, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert "left out from here on" not in done.stdout, done.stdout[-3000:]
        (folder,) = (path.parent for path in tmp_path.glob("runs/*/*/experiment.toml"))
        return folder

    return call


def measured(folder: Path, metric: str) -> list[tuple[int, float]]:
    """(round, value) of metrics.jsonl."""
    return [(record["round"], record[metric]) for record in read_metrics(folder / "metrics.jsonl") if metric in record]


@needs["tensorboard"]
def test_tensorboard_has_every_value_and_the_settings(track: Track) -> None:
    """Its scalars are those of metrics.jsonl to single precision."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = track("tensorboard")
    found = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert "experiment/text_summary" in found.Tags()["tensors"]
    for metric in ("f", "bits_up", "direction_norm"):
        scalars = [(event.step, event.value) for event in found.Scalars(metric)]
        expected = measured(folder, metric)
        assert [step for step, _ in scalars] == [step for step, _ in expected]
        assert [value for _, value in scalars] == pytest.approx([value for _, value in expected], rel=1e-6)


@needs["mlflow"]
@pytest.mark.filterwarnings("ignore")  # what MLflow and SQLAlchemy have to tell each other while this test reads
def test_mlflow_has_every_value_the_settings_and_the_end(track: Track) -> None:
    """In a database beside the run folders, read back with MLflow's own client."""
    from mlflow.tracking import MlflowClient

    folder = track("mlflow")
    client = MlflowClient(f"sqlite:///{folder.parents[1] / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string=f"name = '{small_experiment().name}'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["algorithm.name"] == "fedavg"
    assert run.data.tags["flspan.run"] == folder.name
    for metric in ("f", "bits_up"):
        history = client.get_metric_history(run.info.run_id, metric)
        assert sorted((entry.step, entry.value) for entry in history) == measured(folder, metric)


@needs["wandb"]
def test_wandb_records_offline_without_a_key(track: Track) -> None:
    """Nobody is asked for anything; the file in the run's folder holds settings, every round and the end."""
    folder = track("wandb")
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    records = wandb_records(path)
    history = [record["history"] for record in records if "history" in record]
    for metric in ("f", "bits_up"):
        found = [(row["round"], row[metric]) for row in history if metric in row]
        assert found == measured(folder, metric)
    (settings,) = (record["config"] for record in records if record.get("config", {}).get("algorithm.name"))
    assert settings["algorithm.name"] == "fedavg"
    assert any(record.get("summary", {}).get("reason") == "finished" for record in records)


def wandb_records(path: Path) -> list[dict[str, Any]]:
    """The records of a .wandb file, each as {kind: {key: value}}."""
    from wandb.proto import wandb_internal_pb2

    records = []
    for data in leveldb_log(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            records.append({kind: entries(record.history.item)})
        elif kind in ("summary", "config"):
            records.append({kind: entries(getattr(record, kind).update)})
        elif kind == "run":
            records.append({"config": entries(record.run.config.update)})
    return records


def leveldb_log(content: bytes) -> Iterator[bytes]:
    """The records of LevelDB's log format, as W&B writes it: blocks of 32 KiB; a record is crc, length, type, data."""
    at, block, record = 7, 32768, b""  # behind W&B's own header, which counts as part of the first block
    while at < len(content):
        if block - at % block < 7:
            at += block - at % block
            continue
        length, kind = struct.unpack_from("<4xHB", content, at)
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def entries(items: Any) -> dict[str, Any]:
    """Keys and values of a protobuf list of them."""
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


@needs["mlflow"]
def test_a_tracker_whose_server_is_gone_leaves_the_run_alone(tmp_path: Path) -> None:
    """A port where nobody listens: the run ends as ever, with exit code 0, and says that the tracker was dropped."""
    (tmp_path / "t.toml").write_text(small_experiment().to_toml())
    done = subprocess.run(
        [sys.executable, "-m", "master.cli", "--reference", "--no-dashboard", "--track", "mlflow", "t.toml"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        },
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Tracker failed and is left out from here on: RuntimeError: mlflow:" in done.stdout
    (folder,) = (path.parent for path in tmp_path.glob("runs/*/*/summary.json"))
    assert json.loads((folder / "summary.json").read_text())["reason"] == "finished"
