"""flctl runs, and how runs are named, filtered and sorted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from master.flctl.conditions import Condition
from master.flctl.finding import all_runs, find_run, find_runs
from master.flctl.stored_run import StoredRun
from master.runs import RunFolder
from protocol.errors import InputError

Flctl = Callable[..., Result]


def lines(result: Result) -> list[dict[str, str]]:
    """The tab-separated table."""
    assert result.exit_code == 0, result.output
    head, *rows = [line.split("\t") for line in result.stdout.splitlines()]
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_runs_are_listed_in_the_order_they_were_started(flctl: Flctl, runs_dir: Path) -> None:
    """With status, rounds and last metrics, every digit of them."""
    rows = lines(flctl("runs"))
    assert [row["run"].rsplit("-", 1)[0] for row in rows] == ["diana-s1", "diana-s2", "diana-s1", "diana-s2"]
    assert {row["status"] for row in rows} == {"finished"}
    run = find_run(rows[0]["run"], runs_dir)
    assert float(rows[0]["grad_norm"]) == run.records[-1]["grad_norm"]
    assert rows[0]["round"] == "8"


def test_where_filters_by_settings_and_by_metrics(flctl: Flctl, runs_dir: Path) -> None:
    """=, !=, ~, and comparisons; hyphen and underscore are the same; conditions are joined."""
    assert len(lines(flctl("runs", "--where", "uplink.name=randk"))) == 2
    assert len(lines(flctl("runs", "--where", "uplink.name!=randk", "--where", "seed=1"))) == 1
    assert len(lines(flctl("runs", "--where", "uplink~RAND"))) == 2
    assert len(lines(flctl("runs", "--where", "uplink.k=50%"))) == 2
    bits = sorted(int(row["bits_up"]) for row in lines(flctl("runs")))
    assert len(lines(flctl("runs", "--where", f"bits_up<={bits[0]}"))) == 2
    assert flctl("runs", "--where", "seed=9").stderr == "no run meets every --where\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--where", "algoritm.name=diana"], 'did you mean "algorithm.name"'),
        (["--where", "seed"], "must look like key=value"),
        (["--where", "seed<one"], "'one' is no number"),
        (["--sort", "grad_nrom"], 'did you mean "grad_norm"'),
        (["--columns", "lr"], 'did you mean "server.optimizer.lr"'),
        (["--runs-dir", "nowhere"], "there is no folder nowhere"),
    ],
)
def test_mistakes_are_told_in_one_line(flctl: Flctl, runs_dir: Path, arguments: list[str], message: str) -> None:
    """Exit code 2."""
    result = flctl("runs", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_sort_columns_and_json(flctl: Flctl, runs_dir: Path) -> None:
    """Largest first with a minus; the columns asked for; JSON with numbers as numbers."""
    found = json.loads(flctl("runs", "--sort", "-grad_norm", "--columns", "seed,grad_norm,uplink.k", "--json").stdout)
    norms = [row["grad_norm"] for row in found]
    assert norms == sorted(norms, reverse=True)
    assert [set(row) for row in found if "uplink.k" in row] == [{"run", "seed", "grad_norm", "uplink.k"}] * 2


def test_groups_have_mean_and_deviation(flctl: Flctl, runs_dir: Path) -> None:
    """By hand: the two seeds of each operator."""
    rows = lines(flctl("runs", "--group", "uplink", "--columns", "f,status"))
    assert [(row["uplink"], row["runs"], row["status"]) for row in rows] == [
        ("identity", "2", "finished"), ("randk (k = 50%)", "2", "finished"),
    ]  # fmt: skip
    values = [run.last["f"] for run in all_runs(runs_dir) if run.value("uplink.name") == "identity"]
    assert float(rows[0]["f"]) == pytest.approx(sum(values) / 2)
    assert float(rows[0]["f ±"]) == pytest.approx(abs(values[0] - values[1]) / 2**0.5)


def test_a_run_is_named_by_path_name_beginning_or_hash(runs_dir: Path) -> None:
    """A folder of runs stands for all of them; each once, in the order named."""
    run = all_runs(runs_dir)[2]
    for text in (str(run.path), run.name, f"quad/{run.name}", run.name[:-3], run.name.rsplit("-", 1)[1]):
        assert find_run(text, runs_dir).path.resolve() == run.path.resolve()
    assert len(find_runs(["quad", run.name], runs_dir)) == 4
    assert find_runs([run.name, "quad"], runs_dir)[0].name == run.name


def test_an_ambiguous_or_unknown_name_lists_what_there_is(runs_dir: Path, tmp_path: Path) -> None:
    """The candidates, or the nearest; and a folder without runs says so."""
    with pytest.raises(InputError, match=r'"diana-s1" fits 2 runs: diana-s1-\w+, diana-s1-\w+; write more'):
        find_run("diana-s1", runs_dir)
    with pytest.raises(InputError, match=r'there is no run "daina-s2".*did you mean "diana-s2-'):
        find_run("daina-s2", runs_dir)
    with pytest.raises(InputError, match='"quad" names 4 runs where one is due'):
        find_run("quad", runs_dir)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no run"):
        find_run(str(tmp_path / "empty"), runs_dir)


def test_a_run_whose_lock_is_held_is_running(runs_dir: Path) -> None:
    """And nobody's lock was touched to find out: flmaster could start meanwhile."""
    run = all_runs(runs_dir)[0]
    assert run.status == "finished"
    folder = RunFolder(run.path)
    with folder.open(folder.experiment(), {"started": "now"}):
        assert StoredRun(run.path).status == "running"
    assert StoredRun(run.path).status == "finished"
    (run.path / "summary.json").unlink()
    assert StoredRun(run.path).status == "interrupted"


def test_a_missing_value_is_equal_to_nothing(runs_dir: Path) -> None:
    """A run without uplink.k is neither 50% nor smaller than anything."""
    run = next(run for run in all_runs(runs_dir) if run.value("uplink.name") == "identity")
    assert not Condition.of("uplink.k=50%").holds(run)
    assert Condition.of("uplink.k!=50%").holds(run)
    assert not Condition.of("uplink.k<100").holds(run)
    assert Condition.of("server.optimizer.lr = 0.30").holds(run)
