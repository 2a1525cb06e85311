"""The text log: one line a round, and lines for whatever else matters."""

from __future__ import annotations

import io

from master.events import Evaluated, Event, RoundFinished, RunFinished, RunStarted, Warned
from master.observers.text_log import TextLog, round_line


def started(run: str, rounds: int = 3) -> RunStarted:
    """The start of a run."""
    what = {"name": "digits", "algorithm": "fedavg", "digest": "9f2ac1", "folder": f"runs/digits/{run}"}
    sizes = {"rounds": rounds, "clients": 100, "per_round": 10, "d": 650, "seed": 1}
    return RunStarted(time_s=0.0, run=run, **what, **sizes)  # type: ignore[arg-type]


def lines_of(*events: Event, timestamps: bool = False, run: str | None = None) -> list[str]:
    """What a log writes."""
    stream = io.StringIO()
    text_log = TextLog(stream, timestamps=timestamps, run=run)
    for event in events:
        text_log.observe(event)
    text_log.close()
    return stream.getvalue().splitlines()


def test_a_round_is_one_line_in_a_fixed_order() -> None:
    """Whatever order it was measured in, grep and cut find the same columns; what is absent is absent."""
    metrics: dict[str, float | int] = {
        "round_s": 0.031,
        "mine": 2,
        "bits_up": 1_200_000,
        "accuracy": 0.93,
        "clients": 10,
    }
    line = "round 12/100  clients 10  accuracy 0.93  bits_up 1.2e+06  mine 2  round_s 0.031"
    assert round_line(12, 100, metrics) == line


def test_quantiles_over_clients_are_one_pair() -> None:
    """Least, greatest and median; what only looks like one of them is as it is."""
    quantiles = {"min": 0.12, "q10": 0.2, "q50": 0.4, "q90": 0.9, "max": 0.98}
    metrics = {
        "f": 0.5,
        **{f"client_f_{name}": value for name, value in quantiles.items()},
        "mine_min": 2,
        "round_s": 1,
    }
    expected = "round 1/2  f 0.5  client_f 0.12…0.98 (median 0.4)  mine_min 2  round_s 1"
    assert round_line(1, 2, metrics) == expected


def test_evaluation_joins_its_round_and_order_is_kept() -> None:
    """Round 2 is done before round 1 is evaluated; still round 1 is written first, with its accuracy."""
    first = RoundFinished(time_s=1.0, run="a", round=1, metrics={"clients": 10}, evaluates=True)
    second = RoundFinished(time_s=2.0, run="a", round=2, metrics={"clients": 9})
    evaluated = Evaluated(time_s=3.0, run="a", round=1, metrics={"accuracy": 0.5})
    assert lines_of(started("a"), first, second)[1:] == []
    assert lines_of(started("a"), first, second, evaluated)[1:] == [
        "round 1/3  clients 10  accuracy 0.5",
        "round 2/3  clients 9",
    ]


def test_the_end_of_a_run_writes_what_still_waited() -> None:
    """A run that stops before its evaluation loses no round; the reason is on the last line."""
    waiting = RoundFinished(time_s=1.0, run="a", round=1, metrics={"clients": 10}, evaluates=True)
    over = RunFinished(time_s=2.0, run="a", reason="failed", text="my.py:3: no", summary={"accuracy": 0.5})
    assert lines_of(started("a"), waiting, over)[1:] == [
        "round 1/3  clients 10",
        "run a failed: my.py:3: no",
        "run a measured last  accuracy 0.5",
    ]


def test_runs_under_way_at_once_are_told_apart() -> None:
    """With two runs open, a round says whose it is."""
    done = RoundFinished(time_s=1.0, run="b", round=1, metrics={})
    assert lines_of(started("a"), started("b"), done)[2:] == ["[b] round 1/3"]


def test_the_log_of_a_run_is_of_that_run() -> None:
    """What another run under way did is not in it; what concerns all is."""
    done = [RoundFinished(time_s=1.0, run=run, round=1, metrics={}) for run in "ab"]
    told = lines_of(started("a"), started("b"), *done, Warned(time_s=2.0, text="the disk is full"), run="b")
    assert [line.split("  ")[0] for line in told] == ["run b starts: digits", "round 1/3", "warning: the disk is full"]


def test_a_warning_keeps_its_lines_and_loses_its_control_characters() -> None:
    """A traceback stays readable; nothing in it can steer the terminal; each line has its time in log.txt."""
    warned = Warned(time_s=0.0, text="first\n\x1b[2Jsecond")
    assert lines_of(warned) == ["warning: first", " [2Jsecond"]
    assert [line[19:] for line in lines_of(warned, timestamps=True)] == ["  warning: first", "   [2Jsecond"]


def test_the_story_reads_well(story: list[Event]) -> None:
    """Workers, the start, and each of 12 rounds once."""
    lines = lines_of(*story)
    assert lines[0] == "worker local joined  address local  slots 2  devices cpu"
    rounds = [line.split("  ")[0] for line in lines if line.startswith("round ")]
    assert rounds == [f"round {number}/100" for number in range(1, 13)]
