"""show, command, diff, export, rm, keygen, new and list, on runs of a real flmaster."""

from __future__ import annotations

import csv
import io
import json
import shlex
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from fl_core.experiment.reading import read_experiments
from fl_core.reference import run_reference
from fl_core.session import open_session
from master.flctl.finding import all_runs
from master.plotting.metric_words import METRICS
from master.runs import RunFolder
from protocol.secret import read_secret

Flctl = Callable[..., Result]


def test_show_has_settings_surroundings_and_curves(flctl: Flctl, runs_dir: Path) -> None:
    """Every resolved setting; every metric with first, last and a sparkline; JSON has the same."""
    run = all_runs(runs_dir)[0]
    text = flctl("show", run.name).stdout
    assert f"{run.name}   finished, round 8 of 8" in text
    assert "server.optimizer.lr\t0.3\n" in text
    assert f"grad_norm\t{run.records[0]['grad_norm']!r}\t{run.records[-1]['grad_norm']!r}\t" in text
    assert "█" in text
    record = json.loads(flctl("show", run.name, "--json").stdout)
    assert record["settings"] == run.settings
    assert record["metrics"]["distance"] == run.last["distance"]


def test_command_runs_it_again_with_the_same_numbers(
    flctl: Flctl, runs_dir: Path, tmp_path: Path, rerun: Callable[..., None]
) -> None:
    """The printed line, really run, makes one run; `diff` finds the same bits in all rounds."""
    run = next(run for run in all_runs(runs_dir) if run.value("uplink.name") == "randk")
    words = shlex.split(flctl("command", run.name, "--into", "again").stdout)
    assert words[0] == "flmaster"
    assert words[1:5] == ["--devices", "cpu", "--threads-per-device", "1"]
    rerun(tmp_path, *words[5:])
    text = flctl("diff", run.name, "again").stdout
    assert "no setting differs" in text
    assert "the numbers are the same, bit for bit, in all 9 rounds that both measured" in text


def test_command_can_print_what_was_typed(flctl: Flctl, runs_dir: Path, made: Path) -> None:
    """With the folder it was typed in."""
    line = flctl("command", all_runs(runs_dir)[0].name, "--original").stdout
    assert line.startswith(f"cd {made} && ")
    assert line.endswith("--devices cpu --threads-per-device 1 quad.toml\n")


def test_diff_names_what_differs_and_where_numbers_part(flctl: Flctl, runs_dir: Path) -> None:
    """Settings of one only are empty in the other; the first round and metric that differ."""
    a, b = (next(r for r in all_runs(runs_dir) if r.value("uplink.name") == u) for u in ("identity", "randk"))
    found = json.loads(flctl("diff", a.name, b.name, "--json").stdout)
    assert {row["key"]: (row["a"], row["b"]) for row in found["settings"]} == {
        "uplink.name": ("identity", "randk"), "uplink.k": (None, "50%"),
    }  # fmt: skip
    assert found["numbers"].startswith("the numbers part in round 1: ")
    assert {row["key"] for row in found["metrics"]} >= {"f", "bits_up"}


def test_export_has_every_number_and_nothing_made_up(flctl: Flctl, runs_dir: Path, tmp_path: Path) -> None:
    """CSV: a line a round, empty where nothing was measured; JSON: the records themselves."""
    rows = list(csv.DictReader(io.StringIO(flctl("export", "quad").stdout)))
    runs = all_runs(runs_dir)
    assert len(rows) == sum(len(run.records) for run in runs) == 36
    assert rows[0]["bits_up"] == ""
    assert rows[1]["grad_norm"] == ""
    assert float(rows[2]["grad_norm"]) == runs[0].records[2]["grad_norm"]
    assert {row["uplink.name"] for row in rows} == {"identity", "randk"}
    assert "model.name" not in rows[0]
    result = flctl("export", "quad", "--where", "seed=2", "-o", "out.json")
    assert result.exit_code == 0
    written = json.loads((tmp_path / "out.json").read_text())
    assert [run["metrics"] for run in written] == [run.records for run in runs if run.value("seed") == 2]
    assert flctl("export", "quad", "-o", "out.xlsx").exit_code == 2


def test_rm_asks_and_spares_what_runs(flctl: Flctl, runs_dir: Path) -> None:
    """No: nothing goes. A run that is held: nothing goes. Yes: the folders, and the empty folder above."""
    run, *_ = runs = all_runs(runs_dir)
    assert flctl("rm", run.name, input="n\n").stdout.endswith("nothing was deleted\n")
    folder = RunFolder(run.path)
    with folder.open(folder.experiment(), {"started": "now"}):
        result = flctl("rm", "quad", "--yes")
        assert result.exit_code == 2
        assert "still running" in result.stderr
    assert len(all_runs(runs_dir)) == 4
    assert flctl("rm", run.name, input="y\n").exit_code == 0
    assert [found.name for found in all_runs(runs_dir)] == [found.name for found in runs[1:]]
    assert flctl("rm", "quad", "-y").exit_code == 0
    assert not (runs_dir / "quad").exists()


def test_keygen_writes_a_secret_and_never_shows_it(flctl: Flctl, tmp_path: Path) -> None:
    """Mode 0600, read back by the daemons' reader, never overwritten, not in the output."""
    result = flctl("keygen", "secret")
    path = tmp_path / "secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert bytes(read_secret(path)).hex() not in result.output
    assert "--secret-file" in result.output
    before = path.read_bytes()
    assert flctl("keygen", "secret").exit_code == 2
    assert path.read_bytes() == before


def test_new_files_check_and_run_as_they_are(flctl: Flctl, tmp_path: Path) -> None:
    """The template keeps the contract, its experiment runs, and neither is ever overwritten."""
    assert flctl("new", "my_method").exit_code == 0
    assert "class MyMethod(" in (tmp_path / "my_method.py").read_text()
    checked = flctl("check", "my_method.py", "--only", "gradient descent", "--set", "alpha=0.5")
    assert checked.exit_code == 0, checked.output
    assert "alpha = 0.5" in checked.output
    experiments = read_experiments(tmp_path / "my_method.toml", ["rounds=4"])
    assert [experiment.seed for experiment in experiments] == [1, 2, 3] * 2
    for experiment in experiments[::3]:
        assert [metrics["round"] for _, metrics in run_reference(open_session(experiment))] == [1, 2, 3, 4]
    again = flctl("new", "my_method")
    assert again.exit_code == 2
    assert "exists and is not overwritten" in again.stderr
    assert flctl("new", "class").exit_code == 2


def test_check_fails_with_exit_code_1_and_as_json(flctl: Flctl, tmp_path: Path) -> None:
    """A broken file: the property, its outcome, and the exit code; a file that is not there: 2."""
    flctl("new", "broken")
    path = tmp_path / "broken.py"
    path.write_text(path.read_text().replace("return server.state.h + replies.mean", "return replies.men"))
    result = flctl("check", "broken.py", "--only", "one local step", "--json")
    assert result.exit_code == 1
    failed = [found for found in json.loads(result.stdout) if found["outcome"] == "failed"]
    assert "has no attribute 'men'" in failed[0]["text"]
    assert flctl("check", "none.py").exit_code == 2


@pytest.mark.parametrize(
    ("kind", "name", "option"),
    [
        ("algorithms", "scaffold", "option = 2 (1 or 2)"),
        ("compressors", "randk", "k (an integer or a string)"),
        ("models", "logistic", "bias"),
        ("datasets", "quadratic", "mu = 0.1 (a number)"),
        ("partitions", "dirichlet", "alpha (a number greater than 0)"),
        ("optimizers", "adam", "lr"),
        ("schedules", "cosine", "eta_min"),
        ("regularizers", "l2", "alpha"),
    ],
)
def test_list_names_what_an_experiment_may_use(flctl: Flctl, kind: str, name: str, option: str) -> None:
    """With a line on each and its options; one alone with its whole documentation."""
    result = flctl("list", kind)
    row = next(line.split("\t") for line in result.stdout.splitlines() if line.startswith(f"{name}\t"))
    assert row[1]
    assert option in row[2]
    assert flctl("list", kind, name).stdout.startswith(f"{name}: ")
    assert flctl("list", kind, "nothing-of-the-kind").exit_code == 2


def test_every_metric_has_a_definition(flctl: Flctl) -> None:
    """Those of the schema, no more and no fewer."""
    from fl_core.experiment.schema import CLIENT_METRICS, EVALUATED_METRICS, ROUND_METRICS

    assert set(METRICS) == {*EVALUATED_METRICS, *CLIENT_METRICS, *ROUND_METRICS}
    listed = {entry["name"]: entry["summary"] for entry in json.loads(flctl("list", "metrics", "--json").stdout)}
    assert set(listed) == set(METRICS)
    assert all(len(summary) > 10 for summary in listed.values())
