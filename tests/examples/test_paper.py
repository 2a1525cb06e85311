"""The experiments of arXiv 2202.03099: each file says what docs/paper.md says, and its curves are what theory says."""

from __future__ import annotations

import csv
import itertools
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fl_core.experiment.reading import read_experiments
from fl_core.experiment.schema import Experiment
from fl_core.problem import Problem
from fl_core.reference import run_reference
from fl_core.server import Server
from fl_core.session import open_session
from fl_core.theory.step_size import solved_constants
from master.plotting.overlays import read_overlay

PAPER = Path(__file__).resolve().parents[2] / "examples" / "paper"
EXACT = "model.dtype=float64"


def variants(file: str, *overrides: str) -> dict[tuple[str, int], Experiment]:
    """The runs of a file for seed 1, by label and number of local steps."""
    found = read_experiments(PAPER / file, ["seed=1", *overrides])
    named = {(e.label, e.local.steps or 0): e for e in found}
    assert len(named) == len(found)
    return named


def run(experiment: Experiment) -> tuple[Problem, list[Tensor], list[dict[str, Any]]]:
    """The problem, x^0, x^1, …, and the metrics of each round."""
    session = open_session(experiment)
    points, metrics = [session.server().x], []
    server: Server
    for server, measured in run_reference(session):
        points.append(server.x)
        metrics.append(measured)
    return session.problem, points, metrics


def local_quadratics(problem: Problem) -> tuple[Tensor, Tensor]:
    """H_i `[n, d, d]` and q_i `[n, d]` of ∇f_i(x) = H_i x - q_i."""
    shards = [problem.shard(i) for i in range(problem.n)]
    h = torch.stack([2 / len(a) * a.T @ a for a, _ in shards])
    return h, torch.stack([2 / len(a) * a.T @ b.reshape(-1) for a, b in shards])


def gradient_norms(problem: Problem, points: list[Tensor]) -> list[float]:
    """‖∇f(x^t)‖."""
    h, q = (part.mean(dim=0) for part in local_quadratics(problem))
    return [float((h @ x - q).norm()) for x in points]


def minimiser(problem: Problem) -> Tensor:
    """x*."""
    h, q = (part.mean(dim=0) for part in local_quadratics(problem))
    return torch.linalg.solve(h, q)


def assert_close(points: list[Tensor], wanted: list[Tensor], tolerance: float = 1e-12) -> None:
    """Every iterate within the tolerance, relative to how far the run goes."""
    scale = float((wanted[0] - wanted[-1]).norm())
    assert len(points) == len(wanted)
    assert max(float((x - y).norm()) for x, y in zip(points, wanted, strict=True)) <= tolerance * scale


def bits_of_a_round(metrics: list[dict[str, Any]]) -> float:
    """Of the last one."""
    return float(metrics[-1]["bits_up"])


# --- the files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "rates", "d", "homogeneous"),
    [
        ("fig2.toml", {1: 0.5, 5: 0.9}, 10, True),
        ("fig2_original.toml", {1: 0.5, 5: 0.9}, 10, True),
        ("fig2_text.toml", {1: 1.0, 5: 1.0}, 20, True),
        ("fig2_heterogeneous.toml", {1: 0.5, 5: 0.1}, 20, False),
    ],
)
def test_figure_2_has_the_settings_of_the_page(file: str, rates: dict[int, float], d: int, homogeneous: bool) -> None:
    """Rates, dimension, K, ten seeds: as in docs/paper.md."""
    found = read_experiments(PAPER / file)
    assert {e.seed for e in found} == set(range(1, 11))
    assert {e.local.steps: e.local.optimizer.options["lr"] for e in found} == rates
    for e in found:
        assert (e.server.optimizer.options["lr"], e.clients.per_round, e.local.gradient) == (0.5, 10, "full")
        options = e.data.plug.options
        assert (options["d"], options["L"], options["mu"]) == (d, 2.0, 1.0)
        assert options.get("homogeneous", False) is homogeneous
        k = {"identity": "100 %", "randk": str(e.uplink.options.get("k")).replace("%", " %")}[e.uplink.name]
        assert e.label.endswith(f"K = {k}")
    per_seed = {(e.label, e.local.steps) for e in found}
    assert len(found) == 10 * len(per_seed) == 10 * (10 if file == "fig2_heterogeneous.toml" else 6)


@pytest.mark.parametrize("file", ["fig3.toml", "fig3_original.toml"])
def test_figure_3_has_the_settings_of_the_page(file: str) -> None:
    """Both methods, lazy with p = 0.8, global rate 0.15, local rates 1 and 0.1, ten seeds."""
    found = read_experiments(PAPER / file)
    assert len(found) == 40
    assert {e.local.steps: e.local.optimizer.options["lr"] for e in found} == {1: 1.0, 5: 0.1}
    assert all(e.uplink.to_dict() == {"name": "lazy", "p": 0.8} for e in found)
    assert {e.server.optimizer.options["lr"] for e in found} == {0.15}
    assert all(e.label.casefold() in e.algorithm.name for e in found)


def test_the_variants_of_a_figure_differ_in_nothing_else() -> None:
    """The files with what the original computes have the very tables of the figures, but for the method."""
    for file in ("fig2", "fig3"):
        ours, theirs = (tomllib.loads((PAPER / f"{file}{end}.toml").read_text()) for end in ("", "_original"))
        for tables in (ours, theirs):
            for part in (tables, *tables["run"]):
                part.pop("algorithm", None)
            del tables["name"]
        assert ours == theirs


# --- figure 2 --------------------------------------------------------------------------------------------------------


def test_one_step_is_gradient_descent_whatever_is_compressed() -> None:
    """Figure 2, 1 step, every K: x^t = x* + (I - η_g η_l H)^t (x^0 - x*), and ‖∇f‖ falls by 0.75 a round in the end."""
    for label in ("K = 100 %", "K = 40 %", "K = 20 %"):
        problem, points, _ = run(variants("fig2.toml", EXACT, "rounds=30")[label, 1])
        h, best = local_quadratics(problem)[0].mean(dim=0), minimiser(problem)
        wanted = [points[0]]
        for _ in range(30):
            wanted.append(wanted[-1] - 0.25 * h @ (wanted[-1] - best))
        assert_close(points, wanted)
        norms = gradient_norms(problem, points)
        assert norms[30] / norms[29] == pytest.approx(0.75, rel=1e-3)
        assert norms[30] / norms[20] == pytest.approx(0.0563, rel=5e-3)


def test_five_steps_on_equal_clients_halve_the_gradient_whatever_is_compressed() -> None:
    """Figure 2, 5 steps: what the shifts get wrong cancels in the mean, so every K goes the way of local descent."""
    ways = {label: run(variants("fig2.toml", EXACT, "rounds=16")[label, 5]) for label in ("K = 100 %", "K = 20 %")}
    problem, points, _ = ways["K = 100 %"]
    h, best = local_quadratics(problem)[0][0], minimiser(problem)
    step = torch.linalg.matrix_power(torch.eye(len(h), dtype=h.dtype) - 0.9 * h, 5)
    wanted = [points[0]]
    for _ in range(16):
        error = wanted[-1] - best
        wanted.append(wanted[-1] + 0.5 * (step @ error - error))
    assert_close(points, wanted)
    assert_close(ways["K = 20 %"][1], wanted)
    norms = gradient_norms(problem, points)
    assert norms[16] / norms[15] == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize(("label", "floats"), [("K = 100 %", 20), ("K = 40 %", 14), ("K = 20 %", 12)])
def test_a_round_of_figure_2_sends_what_its_axis_says(label: str, floats: int) -> None:
    """d + K floats of 32 bits from each of 10 clients; by the text, with d = 20 and both compressed, 2K."""
    _, _, metrics = run(variants("fig2.toml", "rounds=1")[label, 5])
    assert bits_of_a_round(metrics) == 32 * 10 * floats
    _, _, metrics = run(variants("fig2_text.toml", "rounds=1")[label, 5])
    assert bits_of_a_round(metrics) == 32 * 10 * 2 * {20: 20, 14: 8, 12: 4}[floats]


def test_by_the_text_compressing_the_update_costs_rounds() -> None:
    """With both compressed, K = 100 % is descent with step 0.5 and the others are not; they still go to x*."""
    found = variants("fig2_text.toml", EXACT, "rounds=60")
    norms = {}
    for label in ("K = 100 %", "K = 40 %"):
        problem, points, _ = run(found[label, 1])
        norms[label] = gradient_norms(problem, points)
    assert norms["K = 100 %"][20] / norms["K = 100 %"][10] == pytest.approx(0.5**10, rel=1e-2)
    assert norms["K = 40 %"][20] > 5 * norms["K = 100 %"][20]
    assert norms["K = 40 %"][60] < 1e-3 * norms["K = 40 %"][0]


@pytest.mark.parametrize("steps", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_where_clients_differ_scaffold_goes_on_and_the_original_stalls(steps: int) -> None:
    """With K = 40 %: a hundredth of the gradient is passed, and the original's stays above a fiftieth of it."""
    found = variants("fig2_heterogeneous.toml", EXACT, "rounds=60")
    problem, points, _ = run(found["K = 40 %", steps])
    norms = gradient_norms(problem, points)
    assert max(norms[50:]) < 1e-3 * norms[0]
    problem, points, _ = run(found["original's, K = 40 %", steps])
    norms = gradient_norms(problem, points)
    assert min(norms[30:]) > 1e-2 * norms[0]


def test_the_legends_local_rate_needs_equal_clients() -> None:
    """L_i of unequal clients exceeds 2/0.9: with 5 steps at that rate the method diverges, compressed or not."""
    experiment = variants("fig2.toml", EXACT, "rounds=12", "data.homogeneous=false")["K = 100 %", 5]
    problem, points, _ = run(experiment)
    assert float(torch.linalg.eigvalsh(local_quadratics(problem)[0]).max()) > 2 / 0.9
    norms = gradient_norms(problem, points)
    assert norms[12] > 1e3 * norms[0]


def test_the_originals_scaffold_is_what_its_docstring_says() -> None:
    """1 step, K = 100 %: x+ = x - 0.25 (∇f(x) + ∇f(x before)), to 1e-12."""
    problem, points, _ = run(variants("fig2_original.toml", EXACT, "rounds=20")["K = 100 %", 1])
    h, best = local_quadratics(problem)[0].mean(dim=0), minimiser(problem)
    wanted, before = [points[0]], torch.zeros_like(best)
    for _ in range(20):
        now = h @ (wanted[-1] - best)
        wanted.append(wanted[-1] - 0.25 * (now + before))
        before = now
    assert_close(points, wanted)


@pytest.mark.parametrize("steps", [1, 5])
def test_the_published_curves_are_of_the_originals_scaffold(steps: int) -> None:
    """K = 100 %: from round 6 to 31 the published gradient falls as the original's does, and not as SCAFFOLD's."""
    published = dict(zip(*series("published_fig2.csv", "K = 100 %, published", steps), strict=True))
    falls = {"published": np.log10(published[31] / published[6])}
    for file in ("fig2", "fig2_original"):
        problem, points, _ = run(variants(f"{file}.toml", EXACT, "rounds=31")["K = 100 %", steps])
        norms = gradient_norms(problem, points)
        falls[file] = np.log10(norms[31] / norms[6])
    assert falls["fig2_original"] == pytest.approx(falls["published"], abs=0.25)
    assert abs(falls["fig2"] - falls["published"]) > 0.75


# --- figure 3 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["DIANA", "MARINA"])
def test_without_compression_figure_3_is_gradient_descent(method: str) -> None:
    """Identity in place of lazy: both methods take the steps of descent at 0.15, to 1e-12 (MARINA's coin included)."""
    experiment = variants("fig3.toml", EXACT, "rounds=12", 'uplink={name="identity"}')[method, 1]
    problem, points, _ = run(experiment)
    h, best = local_quadratics(problem)[0].mean(dim=0), minimiser(problem)
    wanted = [points[0]]
    for _ in range(12):
        wanted.append(wanted[-1] - 0.15 * h @ (wanted[-1] - best))
    assert_close(points, wanted)


@pytest.mark.parametrize("method", ["DIANA", "MARINA"])
def test_one_step_keeps_to_its_theorem_and_falls_as_descent_does(method: str) -> None:
    """E V falls by at least 1 - γ mu = 0.85 a round (here V = f - f* over a few seeds); the mean way is descent's."""
    seeds = range(1, 5)
    gaps, norms = [], []
    for seed in seeds:
        found = read_experiments(PAPER / "fig3.toml", [f"seed={seed}", EXACT, "rounds=40"])
        (experiment,) = (e for e in found if (e.label, e.local.steps) == (method, 1))
        problem, points, _ = run(experiment)
        constants, _ = solved_constants(problem)
        assert constants is not None
        assert pytest.approx(1.0, rel=1e-5) == constants.mu
        assert pytest.approx(2.0, rel=1e-5) == constants.L
        h, best = local_quadratics(problem)[0].mean(dim=0), minimiser(problem)
        gaps.append([float((x - best) @ h @ (x - best)) / 2 for x in points])
        norms.append(gradient_norms(problem, points))
    gap, norm = np.mean(gaps, axis=0), np.mean(norms, axis=0)
    assert all(gap[t] <= 0.85**t * gap[0] for t in range(1, 41))
    assert (norm[40] / norm[20]) ** (1 / 20) == pytest.approx(0.85, abs=0.01)


@pytest.mark.parametrize("method", ["DIANA", pytest.param("MARINA", marks=pytest.mark.slow)])
def test_five_steps_lead_to_the_fixed_point_of_fedavg(method: str) -> None:
    """Where clients differ, 5 steps go to the x with Σ R_i (H_i x - q_i) = 0, which is not x*: so do both methods."""
    problem, points, _ = run(variants("fig3.toml", EXACT, "rounds=110")[method, 5])
    fixed, best = fixed_point(problem, 0.1, 5), minimiser(problem)
    assert float((fixed - best).norm()) > 0.05
    assert float((points[-1] - fixed).norm()) < 0.1 * float((points[-1] - best).norm())


def fixed_point(problem: Problem, rate: float, steps: int) -> Tensor:
    """FedAvg's: R_i = η_l Σ_{k<τ} (I - η_l H_i)^k."""
    h, q = local_quadratics(problem)
    eye = torch.eye(problem.d, dtype=h.dtype)
    r = rate * torch.stack(
        [sum((torch.linalg.matrix_power(eye - rate * h_i, k) for k in range(steps)), 0 * eye) for h_i in h]
    )
    return torch.linalg.solve((r @ h).sum(dim=0), (r @ q.unsqueeze(-1)).sum(dim=0).squeeze(-1))


def test_oracle_calls_are_those_of_the_figure() -> None:
    """500 sample gradients a round for DIANA, p + 2(1 - p) = 1.2 times that for MARINA on average; 5 steps, 5 times."""
    for steps, each in ((1, 500), (5, 2500)):
        found = variants("fig3.toml", "rounds=60", "data.d=2")
        calls = {m: sum(r["oracle_calls"] for r in run(found[m, steps])[2]) for m in ("DIANA", "MARINA")}
        assert calls["DIANA"] == 60 * each
        assert calls["MARINA"] / (60 * each) == pytest.approx(1.2, abs=4 * np.sqrt(0.16 / 60))


def test_the_published_figure_3_is_of_the_originals_methods() -> None:
    """5 steps: the published DIANA falls by 0.985 a round, as the original's does; DIANA itself by less than 0.95."""
    rounds, values = series("published_fig3.csv", "DIANA, published", 5)
    published = (values[12] / values[2]) ** (1 / (rounds[12] - rounds[2]))
    factors = {}
    for file in ("fig3", "fig3_original"):
        problem, points, _ = run(variants(f"{file}.toml", EXACT, "rounds=40")["DIANA", 5])
        norms = gradient_norms(problem, points)
        factors[file] = (norms[40] / norms[10]) ** (1 / 30)
    assert factors["fig3_original"] == pytest.approx(published, abs=0.003)
    assert factors["fig3"] < 0.95


def test_the_originals_marina_applies_a_stale_direction() -> None:
    """1 step: between synchronisations G does not change at all; MARINA's does."""
    changed = {}
    for file in ("fig3", "fig3_original"):
        _, points, metrics = run(variants(f"{file}.toml", EXACT, "rounds=30")["MARINA", 1])
        moves = [(b - a) for a, b in itertools.pairwise(points)]
        compressed = [t for t in range(1, 30) if metrics[t]["oracle_calls"] == 1000]
        assert compressed
        changed[file] = [float((moves[t] - moves[t - 1]).norm()) / float(moves[t].norm()) for t in compressed]
    assert max(changed["fig3_original"]) < 1e-12
    assert min(changed["fig3"]) > 1e-3


# --- figure 4 --------------------------------------------------------------------------------------------------------


def small(file: str, *overrides: str) -> dict[tuple[str, int], Experiment]:
    """Figure 4 with a linear model on a few made-up pictures: d = 30,730."""
    pictures = 'data={name="cifar-like", train=400, test=10, partition={name="iid"}}'
    return variants(file, pictures, 'model={name="logistic", loss="cross_entropy"}', "rounds=2", *overrides)


@pytest.mark.parametrize(("file", "end"), [("fig4.toml", ""), ("fig4_stand_in.toml", ", stand-in")])
def test_figure_4_sends_what_its_methods_send(file: str, end: str) -> None:
    """FedAvg: 25 models a round. MARINA: 100 gradients in round 1, then 100 or (about p times 25, or none) of them."""
    found, d = small(file), 3072 * 10 + 10
    _, _, metrics = run(found[f"FedAvg{end}", 1])
    assert [r["bits_up"] for r in metrics] == [25 * 32 * d] * 2
    for p in (0.1, 0.6):
        experiment = found[f"MARINA, p = {p}{end}", 1]
        assert experiment.uplink.options == {"p": p}
        _, _, metrics = run(experiment)
        assert metrics[0]["bits_up"] == 100 * 32 * d
        sent = metrics[1]["bits_up"] / (32 * d)
        assert sent == 100 or (metrics[1]["clients"] == 25 and 0 <= sent <= 25 and sent == int(sent))


def test_figure_4_is_for_the_real_set_and_the_stand_in_says_it_is_not() -> None:
    """ResNet-18, 100 clients, 25 a round in both; the labels of the stand-in's runs tell what they are."""
    for file, data in (("fig4.toml", "cifar10"), ("fig4_stand_in.toml", "cifar-like")):
        for e in read_experiments(PAPER / file):
            assert (e.data.plug.name, e.model.plug.name) == (data, "resnet18")
            assert (e.clients.total, e.clients.per_round) == (100, 25)
            assert ("stand-in" in e.label) is (data != "cifar10")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_stand_in_trains_resnet_18() -> None:
    """One round of FedAvg as the file has it: 25 clients send 11,173,962 floats each, and the model moves."""
    experiment = variants("fig4_stand_in.toml", "rounds=1")["FedAvg, stand-in", 1]
    _, points, metrics = run(experiment)
    assert bits_of_a_round(metrics) == 25 * 32 * 11_173_962
    assert float((points[1] - points[0]).norm()) > 0


# --- what lies beside them -------------------------------------------------------------------------------------------


GRADIENT = "x_metric=round&y_metric=grad_norm"


def series(file: str, label: str, steps: int) -> tuple[list[int], list[float]]:
    """The points of one published curve of ‖∇f‖ over rounds."""
    found = [overlay for overlay in read_overlay(f"{PAPER / file}#{GRADIENT}") if overlay.panel == f"steps = {steps}"]
    (curve,) = (overlay.curve for overlay in found if overlay.curve.label == label)
    return [int(x) for x in curve.x], curve.y.tolist()


@pytest.mark.parametrize(
    ("file", "which", "count"),
    [
        ("published_fig2.csv", GRADIENT, 6),
        ("published_fig2.csv", "x_metric=bits_up", 3),
        ("published_fig3.csv", GRADIENT, 4),
        ("published_fig3.csv", "y_metric=oracle_calls", 4),
    ],
)
def test_the_published_points_are_those_that_were_measured(file: str, which: str, count: int) -> None:
    """Every fifth round and the last: nothing the authors interpolated. Labels begin with those of our runs."""
    overlays = read_overlay(f"{PAPER / file}#{which}")
    assert len(overlays) == count
    ours = {(e.label, f"steps = {e.local.steps}") for e in read_experiments(PAPER / f"{file[10:14]}.toml")}
    for overlay in overlays:
        assert (overlay.curve.label.removesuffix(", published"), overlay.panel) in ours
        assert len(overlay.curve.x) == 21
        if which != "x_metric=bits_up":
            assert overlay.curve.x.tolist() == [*range(1, 97, 5), 100]


def test_the_axis_of_figure_2_has_10_dimensions() -> None:
    """Published bits a round over 10 clients are 320 (d + K) with d = 10, K = 10, 4, 2, as our runs' are."""
    for overlay in read_overlay(f"{PAPER / 'published_fig2.csv'}#x_metric=bits_up"):
        percent = int(overlay.curve.label.split()[2])
        assert np.polyfit([*range(1, 97, 5), 100], overlay.curve.x, 1)[0] == pytest.approx(320 * (10 + percent // 10))


def test_the_drawn_theory_is_of_these_problems() -> None:
    """Lines begin at the ten seeds' mean ‖∇f(x^0)‖, fall by 0.85, its root and 0.5, and one lies at FedAvg's point."""
    starts, fixed = [], []
    for experiment in read_experiments(PAPER / "fig3.toml", [EXACT]):
        if (experiment.label, experiment.local.steps) == ("DIANA", 5):
            session = open_session(experiment)
            starts += gradient_norms(session.problem, [session.server().x])
            fixed += gradient_norms(session.problem, [fixed_point(session.problem, 0.1, 5)])
    lines = {o.curve.label: o.curve for o in read_overlay(str(PAPER / "theory_fig3.csv"))}
    descent, theorem, floor = lines.values()
    for line, factor in ((descent, 0.85), (theorem, 0.85**0.5)):
        assert line.y.tolist() == pytest.approx((np.mean(starts) * factor**line.x).tolist(), rel=1e-4)
    assert floor.y.tolist() == pytest.approx([np.mean(fixed)] * len(floor.y), rel=1e-4)
    experiments = [
        e for e in read_experiments(PAPER / "fig2.toml", [EXACT]) if (e.label, e.local.steps) == ("K = 100 %", 5)
    ]
    sessions = [open_session(e) for e in experiments]
    start = np.mean([gradient_norms(s.problem, [s.server().x])[0] for s in sessions])
    (halved,) = (o.curve for o in read_overlay(str(PAPER / "theory_fig2.csv")))
    assert halved.y.tolist() == pytest.approx((start * 0.5**halved.x).tolist(), rel=1e-4)


def commands() -> dict[str, list[list[str]]]:
    """The commands of README.md there: the experiment's file, and its command lines split into words."""
    found: dict[str, list[list[str]]] = {}
    for block in re.findall(r"```sh\n(.*?)```", (PAPER / "README.md").read_text(encoding="utf-8"), re.DOTALL):
        lines = [shlex.split(line) for line in block.splitlines()]
        assert lines[0][0] == "flmaster"
        found[Path(lines[0][1]).name] = lines
    return found


def test_every_file_has_its_commands() -> None:
    """README.md there has for each experiment one command that runs it and at least one that plots it."""
    found = commands()
    assert set(found) == {path.name for path in PAPER.glob("*.toml")}
    assert all(line[:2] == ["flctl", "plot"] for lines in found.values() for line in lines[1:])
    assert all(len(lines) > 1 for lines in found.values())


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("file", ["fig2.toml", "fig3.toml", "fig3_original.toml"])
def test_the_commands_run_and_draw(file: str, tmp_path: Path) -> None:
    """After two rounds of one seed every plot is made as README.md says, and each panel has its published curves."""
    (tmp_path / "examples").symlink_to(PAPER.parent)
    run_it, *plots = commands()[file]
    for words in ([*run_it, "--reference", "--no-dashboard", "--set", "seed=1", "--set", "rounds=2"], *plots):
        program = Path(sys.executable).with_name(words[0])
        done = subprocess.run([program, *words[1:]], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        if "-o" not in words:
            continue
        picture = tmp_path / words[words.index("-o") + 1]
        rows = list(csv.DictReader(picture.with_suffix(".csv").read_text(encoding="utf-8").splitlines()))
        drawn = {(row["panel"], row["kind"], row["label"]) for row in rows}
        wanted = [f"{PAPER.parents[1] / words[i + 1]}" for i, word in enumerate(words) if word == "--overlay"]
        overlays = {(o.panel, "overlay", o.curve.label) for text in wanted for o in read_overlay(text)}
        assert picture.stat().st_size > 1000
        assert overlays <= drawn
