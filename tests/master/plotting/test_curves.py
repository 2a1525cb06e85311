"""Runs made curves: what is averaged, over which rounds, and what they are called."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from master.flctl.stored_run import StoredRun
from master.plotting.curves import Group, by_difference, curve, grouped, in_order, spans_decades, template
from protocol.errors import InputError

MakeRun = Callable[..., StoredRun]


def settings(seed: int, algorithm: str = "diana", **uplink: object) -> dict[str, object]:
    """Tables of an experiment."""
    return {"seed": seed, "algorithm": {"name": algorithm}, "uplink": uplink or {"name": "identity"}}


def test_runs_that_differ_in_the_seed_alone_are_one_curve(make_run: MakeRun) -> None:
    """Any other setting makes another curve; `--group` says otherwise."""
    records = [{"round": 0, "f": 1.0}]
    runs = [make_run(settings(s, a), records) for a in ("diana", "marina") for s in (1, 2, 3)]
    runs.append(make_run(settings(1, "diana", name="randk", k=2), records))
    assert [len(group.runs) for group in grouped(runs)] == [3, 3, 1]
    assert [len(group.runs) for group in grouped(runs, ["algorithm.name"])] == [4, 3]
    assert [len(group.runs) for group in grouped(runs, ["uplink"])] == [6, 1]
    with pytest.raises(InputError, match=r'--group uplnk: .* did you mean "uplink"'):
        grouped(runs, ["uplnk"])


def test_only_rounds_that_all_runs_measured_are_drawn(make_run: MakeRun) -> None:
    """Nothing is interpolated: a round that one run did not evaluate is left out of both."""
    one = make_run(settings(1), [{"round": t, "f": float(t), "bits_up": 10 * t} for t in range(6)])
    two = make_run(settings(2), [{"round": t, "bits_up": 10 * t} | ({"f": 3.0 * t} if t % 2 == 0 else {})
                                 for t in range(8)])  # fmt: skip
    found = curve(Group((one, two)), "both", "round", "f")
    assert found.rounds.tolist() == [0, 2, 4]
    assert found.y.tolist() == [0.0, 4.0, 8.0]
    assert found.x.tolist() == [0.0, 2.0, 4.0]


def test_bands_are_what_they_are_called(make_run: MakeRun) -> None:
    """Mean ± sample deviation; median with 20-80 % quantiles; extremes; none for one run."""
    values = [1.0, 2.0, 6.0]
    runs = tuple(make_run(settings(s), [{"round": 0, "f": v}]) for s, v in enumerate(values))
    std = curve(Group(runs), "", "round", "f", "std")
    assert std.low is not None
    assert std.high is not None
    assert (std.y[0], std.low[0], std.high[0]) == pytest.approx((3.0, 3 - math.sqrt(7), 3 + math.sqrt(7)))
    quantiles = curve(Group(runs), "", "round", "f", "quantiles")
    assert quantiles.low is not None
    assert quantiles.high is not None
    assert (quantiles.y[0], quantiles.low[0], quantiles.high[0]) == pytest.approx((2.0, 1.4, 4.4))
    extremes = curve(Group(runs), "", "round", "f", "range")
    assert extremes.low is not None
    assert extremes.high is not None
    assert (extremes.low[0], extremes.high[0]) == (1.0, 6.0)
    assert curve(Group(runs), "", "round", "f", "none").low is None
    assert curve(Group(runs[:1]), "", "round", "f", "std").low is None


def test_a_deviation_beyond_the_mean_does_not_take_the_band_to_zero(make_run: MakeRun) -> None:
    """Where mean - deviation <= 0 and every run is positive, the least run is the edge."""
    runs = tuple(make_run(settings(s), [{"round": 0, "f": v}]) for s, v in enumerate((1e-3, 1e-3, 1.0)))
    found = curve(Group(runs), "", "round", "f", "std")
    assert found.y[0] - np.std([1e-3, 1e-3, 1.0], ddof=1) < 0
    assert found.low is not None
    assert found.low[0] == 1e-3


def test_counts_begin_at_zero_and_other_metrics_are_not_made_up(make_run: MakeRun) -> None:
    """At x0 nothing was sent; a metric that was not measured there has no value there."""
    run = make_run(settings(1), [{"round": 0, "f": 5.0}, {"round": 1, "f": 4.0, "bits_up": 80, "loss_train": 2.0}])
    found = curve(Group((run,)), "", "bits_up", "f")
    assert found.x.tolist() == [0.0, 80.0]
    assert curve(Group((run,)), "", "round", "loss_train").rounds.tolist() == [1]


def test_x_that_differs_between_runs_is_averaged_with_its_spread(make_run: MakeRun) -> None:
    """A method with coins sends other bits under each seed: x is their mean at the same round."""
    runs = tuple(make_run(settings(s), [{"round": 1, "f": 1.0, "bits_up": b}]) for s, b in enumerate((100, 300)))
    found = curve(Group(runs), "", "bits_up", "f")
    assert found.x.tolist() == [200.0]
    assert found.x_std is not None
    assert found.x_std[0] == pytest.approx(math.sqrt(2) * 100)


def test_a_metric_that_is_not_there_is_told_with_those_that_are(make_run: MakeRun) -> None:
    """With the run that lacks it."""
    run = make_run(settings(1), [{"round": 1, "f": 1.0, "loss": 2.0}])
    with pytest.raises(InputError, match=r'run r000-s1-\w+ has no metric "grad_norm"; it measured f, loss'):
        curve(Group((run,)), "", "round", "grad_norm")


def test_labels_say_what_differs(make_run: MakeRun) -> None:
    """Varying settings alone, plug-ins by their names; or the runs' own labels; or a template."""
    records = [{"round": 0, "f": 1.0}]
    runs = [make_run(settings(1, a, **u), records) for a in ("diana", "marina")
            for u in ({"name": "identity"}, {"name": "randk", "k": "10%"})]  # fmt: skip
    groups = grouped(runs)
    label = by_difference(groups)
    assert [label(group) for group in groups] == [
        "diana, identity", "diana, randk, k = 10%", "marina, identity", "marina, randk, k = 10%",
    ]  # fmt: skip
    own = template("{algorithm.name}: {uplink}", groups)
    assert own(groups[1]) == "diana: randk (k = 10%)"
    assert by_difference(groups, ["uplink"])(groups[1]) == "diana"
    labelled = grouped([make_run({"label": t, "algorithm": {"name": "diana"}}, records) for t in ("a, 10 %", "b")])
    assert [by_difference(labelled)(group) for group in labelled] == ["a, 10 %", "b"]
    with pytest.raises(InputError, match=r'did you mean "algorithm\.name"'):
        template("{algorithm.nam}", groups)
    with pytest.raises(InputError, match="--label"):
        template("{algorithm.name", groups)


def test_order_is_numeric_where_values_are_numbers(make_run: MakeRun) -> None:
    """10 % comes after 5 %, and a minus turns it round."""
    runs = [make_run(settings(1, "diana", name="randk", k=k), [{"round": 0, "f": 1.0}]) for k in ("10%", "5%", "100%")]
    keys = [group.value("uplink.k") for group in in_order(grouped(runs), "uplink.k")]
    assert keys == ["5%", "10%", "100%"]
    assert [group.value("uplink.k") for group in in_order(grouped(runs), "-uplink.k")] == keys[::-1]


def test_a_run_that_diverged_keeps_its_finite_points(make_run: MakeRun) -> None:
    """inf and NaN are kept in the numbers, and do not decide about the axis."""
    run = make_run(settings(1), [{"round": t, "f": v} for t, v in enumerate((1.0, 1e9, math.inf, math.nan))])
    found = curve(Group((run,)), "", "round", "f")
    assert len(found.y) == 4
    assert spans_decades([found])


def test_rounding_below_zero_does_not_forbid_a_log_axis(make_run: MakeRun) -> None:
    """f - f* of a run that has arrived is -1e-16: still a log axis; -0.1 is not."""
    for least, suits in ((-1e-16, True), (-0.1, False)):
        run = make_run(settings(1), [{"round": t, "f": v} for t, v in enumerate((1.0, 1e-6, least))])
        assert spans_decades([curve(Group((run,)), "", "round", "f")]) is suits
