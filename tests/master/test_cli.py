"""flmaster as a command: what is wrong is said in one line, and the exit code says whose fault it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from master.cli import main

EXPERIMENT = """\
name = "t"
rounds = 1

[data]
name = "quadratic"

[model]
name = "linear"
loss = "mse"

[clients]
total = 4

[algorithm]
name = "fedavg"
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """A right experiment file."""
    path = tmp_path / "t.toml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    return path


def flmaster(experiment: Path, *options: str) -> Result:
    """Run the command in this process."""
    runs = str(experiment.parent / "runs")
    return CliRunner().invoke(main, ["--no-dashboard", "--runs-dir", runs, *options, str(experiment)])


def refused(result: Result, exit_code: int = 2) -> str:
    """The one line it said."""
    assert result.exit_code == exit_code, result.output
    assert not isinstance(result.exception, Exception), result.exception
    (line,) = result.output.strip().splitlines()
    return line


def test_a_right_experiment_runs(experiment: Path) -> None:
    """Exit code 0, and the log on stdout ends with the result."""
    result = flmaster(experiment, "--devices", "cpu")
    assert result.exit_code == 0, result.output
    assert "finished" in result.output.splitlines()[-1]


def test_a_wrong_key_is_one_line_with_place_and_suggestion(experiment: Path) -> None:
    """File, line, table, key, and the nearest right name; no folder is made for what does not run."""
    experiment.write_text(EXPERIMENT.replace("total", "totla"), encoding="utf-8")
    assert refused(flmaster(experiment)) == 'flmaster: t.toml:12: [clients] totla: unknown key; did you mean "total"?'
    assert not (experiment.parent / "runs").exists()


def test_a_wrong_override_is_blamed_on_the_command_line(experiment: Path) -> None:
    """Not on a line of the file that is right."""
    line = refused(flmaster(experiment, "--set", "rounds=many"))
    assert line.startswith("flmaster: --set rounds=many: rounds: must be")


def test_a_missing_file_names_the_nearest(experiment: Path) -> None:
    """Of those beside it."""
    line = refused(flmaster(experiment.with_name("tt.toml")))
    assert line.endswith('there is no such experiment file; did you mean "t.toml"?')


def test_a_missing_data_set_says_what_to_put_where(experiment: Path) -> None:
    """The files, the folders that were looked in, the option that adds one."""
    (experiment.parent / "data").mkdir()
    options = ("--set", "data={name='libsvm', path='mushrooms'}", "--data-root", str(experiment.parent / "data"))
    line = refused_last(flmaster(experiment, "--devices", "cpu", *options))
    assert "mushrooms" in line
    assert str(experiment.parent / "data") in line
    assert "--data-root" in line


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--workers", "gpu1"), "--workers gpu1: write host:port"),
        (("--workers", "127.0.0.1:1,127.0.0.1:1"), "an address is there twice"),
        (("--devices", "none"), "nobody is there to run clients"),
        (("--devices", "tpu"), "--devices tpu"),
        (("--devices", "none", "--workers", "192.0.2.1:7000"), "give --secret-file FILE"),
        (("--secret-file", "/nonexistent/secret"), "cannot be read"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(experiment: Path, options: tuple[str, ...], expected: str) -> None:
    """Instead of a run that waits for ever, or an error in the middle of it."""
    assert expected in refused_last(flmaster(experiment, *options))


def test_a_runs_folder_that_cannot_be_written_is_named(experiment: Path) -> None:
    """What it is, which path, why, and the option that names another; before anything else is said."""
    (experiment.parent / "file").write_text("x", encoding="utf-8")
    runs = experiment.parent / "file" / "runs"
    expected = f"flmaster: the runs folder {runs} cannot be written: it, or what it should lie in, is no folder; "
    assert refused(flmaster(experiment, "--runs-dir", str(runs))) == expected + "name another with --runs-dir"


def test_why_clients_are_not_fused_is_said_once(experiment: Path) -> None:
    """In a line of the run's log, and in no line of Python's logging beside it."""
    hers = "from algorithms.fedavg import FedAvg\n\nclass Hers(FedAvg):\n    def local_gradient(self, client, x, s):\n"
    hers += "        return client.gradient(x) if client.id else -client.gradient(x)\n"
    (experiment.parent / "hers.py").write_text(hers, encoding="utf-8")
    arguments = ["--no-dashboard", "--runs-dir", str(experiment.parent / "runs"), "--devices", "cpu", str(experiment)]
    # "always": whether it would pay is not asked first; enough cohorts for the strikes of two threads.
    sets = ["algorithm.name=hers.py", "rounds=5", "clients.total=16", "execution={fuse='always', cohort=8}"]
    command = [sys.executable, "-m", "master.cli", *arguments, *(part for each in sets for part in ("--set", each))]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=100)
    assert "clients run one by one: it asks for client.id" in done.stdout
    assert (done.stdout + done.stderr).count("one by one") == 1


def test_a_data_root_that_is_not_there_is_refused(experiment: Path) -> None:
    """Rather than looked over."""
    line = refused(flmaster(experiment, "--data-root", "/nowhere"))
    assert line.startswith("flmaster: --data-root /nowhere does not exist: ")


def test_what_is_wrong_in_the_only_run_is_all_that_is_said(experiment: Path) -> None:
    """No worker joins before it."""
    line = refused(flmaster(experiment, "--set", "data={name='libsvm', path='mushrooms'}", "--devices", "cpu"))
    assert "mushrooms" in line


def refused_last(result: Result) -> str:
    """What it said last: a run may have begun."""
    assert result.exit_code == 2, result.output
    return result.output.strip().splitlines()[-1]


def test_help_does_not_wait_for_torch() -> None:
    """Neither does the spawning of workers: the commands' modules import without it."""
    code = "import sys, master.cli, worker.cli; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
