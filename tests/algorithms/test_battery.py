"""The contract of every method: whatever file lies in algorithms/ is found and must pass, with no line here."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from fl_core import plugins
from fl_core.errors import ExperimentError
from fl_core.reference import run_reference
from fl_core.session import Session
from fl_core.state import Zeros, as_dict, initial_values

METHODS = plugins.names("algorithm")
ROUNDS = 5
PARTICIPATION = {
    "full": {},
    "uniform": {"sampling": "uniform", "per_round": 2},
    "poisson": {"sampling": "poisson", "per_round": 1},
}
UNBIASED: list[dict[str, Any]] = [
    {"name": "identity"},
    {"name": "randk", "k": "50%"},
    {"name": "lazy", "p": 0.4},
    {"name": "natural"},
    {"name": "qsgd", "s": 2},
    {"name": "switch", "of": [{"name": "randk", "k": 1}, {"name": "natural"}], "weights": [1, 3]},
    {"name": "compose", "of": [{"name": "natural"}, {"name": "randk", "k": 2}]},
]
BIASED: list[dict[str, Any]] = [{"name": "topk", "k": 1}, {"name": "rankk", "k": 1}]
ACCEPTED = {
    "any": UNBIASED + BIASED,
    "unbiased": UNBIASED,
    "contraction": UNBIASED + BIASED,
    "lossless": UNBIASED[:1],
}


def kind(name: str) -> Any:
    """The method's class."""
    return plugins.resolve("algorithm", name)


def variants(name: str) -> list[dict[str, Any]]:
    """The method's tables: as it is by default, and once with each other choice of an option of a few words."""
    tables: list[dict[str, Any]] = [{"name": name}]
    choices = {"shift_init": "gradient", "g0": "compressed", "option": 1, "u_at": "current", "weights": "uniform"}
    return tables + [{"name": name, key: value} for key, value in choices.items() if key in options(name)]


def options(name: str) -> list[str]:
    """The method's options."""
    return [field.name for field in dataclasses.fields(kind(name))]


CASES = [
    pytest.param(table, how, steps, id="-".join([*map(str, table.values()), how, str(steps)]))
    for name in METHODS
    for table in variants(name)
    for how in PARTICIPATION
    for steps in (1, 3)
    if how == "full" or kind(name).participation == "any"
]


def settings(lab: Any, table: dict[str, Any], how: str, steps: int) -> list[Session]:
    """Sessions for a quarter of the compressors the method accepts, another one for each `how` and number of steps.

    float32 and float64, full and nice gradients in turn.
    """
    found, accepted = [], ACCEPTED[kind(table["name"]).compressor]
    quarter = (list(PARTICIPATION).index(how) + steps // 2) % 4
    for k, uplink in enumerate(accepted):
        if len(accepted) > 1 and k % 4 != quarter:
            continue
        local = {"steps": steps} | ({"gradient": "nice", "tau": "50%"} if k // 4 == 1 else {})
        dtype = ("float64", "float32")[k % 2]
        changes = {"uplink": uplink, "local": local, "dtype": dtype, "rounds": ROUNDS, "lr": 0.125, "seed": 10}
        found.append(lab.session(table, **changes, **PARTICIPATION[how]))
    return found


@pytest.mark.parametrize(("table", "how", "steps"), CASES)
def test_contract(lab: Any, table: dict[str, Any], how: str, steps: int) -> None:
    """Reference and cohorts end with the same bytes; only participants' memories change; records stay as declared."""
    empty = 0
    for session in settings(lab, table, how, steps):
        x = session.problem.x0
        for (server, metrics), played in zip(run_reference(session), lab.play(session), strict=True):
            assert same(server.x, played.server.x)
            assert as_dict(server.state).keys() == as_dict(played.server.state).keys()
            assert all(same(v, getattr(played.server.state, k)) for k, v in as_dict(server.state).items())
            assert metrics["bits_up"] == played.bits_up
            assert metrics["clients"] == len(played.participants)
            check_records(session, played)
            check_memories(session, played)
            if not played.participants:
                empty += 1
                assert played.bits_up == 0
                if not as_dict(server.state):
                    assert torch.equal(server.x, x), "without a state an empty round changes nothing"
            x = server.x
    assert (empty > 0) == (how == "poisson"), "the seed is one whose Poisson samples are empty now and then"


def check_records(session: Session, played: Any) -> None:
    """x, ServerState and Memory have the shapes and types that were declared."""
    problem, algorithm, server = session.problem, session.algorithm, played.server
    assert server.x.shape == (problem.d,)
    assert server.x.dtype == problem.dtype
    assert bool(torch.isfinite(server.x).all())
    assert type(server.state) is algorithm.ServerState
    owner = type(algorithm).__name__
    for name, start in initial_values(algorithm.ServerState, owner).items():
        check_value(getattr(server.state, name), start, problem)
    for name, start in initial_values(algorithm.Memory, owner).items():
        for row in played.after[name]:
            check_value(row, start, problem)


def check_value(value: Any, start: Any, problem: Any) -> None:
    """A field against its declared initial value."""
    if isinstance(start, Zeros):
        assert tuple(value.shape) == ((problem.d,) if start.shape is None else start.shape)
        assert value.dtype == problem.dtype
        assert bool(torch.isfinite(value).all())
    else:
        assert type(value) is type(start)


def check_memories(session: Session, played: Any) -> None:
    """Clients that took no part remember what they remembered."""
    away = [i for i in range(session.problem.n) if i not in played.participants]
    for name, before in played.before.items():
        assert torch.equal(before[away], played.after[name][away])


def same(a: Any, b: Any) -> bool:
    """Bit for bit."""
    return torch.equal(a, b) and a.dtype == b.dtype if isinstance(a, Tensor) else bool(a == b and type(a) is type(b))


@pytest.mark.parametrize("name", METHODS)
def test_a_restored_server_goes_on_with_the_same_bytes(lab: Any, name: str) -> None:
    """Everything a method keeps on the server is in its snapshot; its coins are functions of the round."""
    uplink = ACCEPTED[kind(name).compressor][-1]
    session = lab.session(name, rounds=6, uplink=uplink, dtype="float32")
    whole = [p.server.x.clone() for p in lab.play(session)]
    halves = []
    for played in lab.play(session):
        halves.append(played.server.x.clone())
        tensors, numbers = played.server.snapshot()
        fresh = session.server()
        fresh.restore(tensors, numbers)
        assert all(same(v, getattr(fresh.state, k)) for k, v in as_dict(played.server.state).items())
        played.server.restore(tensors, numbers)
    assert all(torch.equal(a, b) for a, b in zip(whole, halves, strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_the_docstrings_say_where_it_comes_from_and_when_to_use_it(name: str) -> None:
    """Authors, year and arXiv number (or venue), and one line of advice."""
    text = plugins.module("algorithm", name).__doc__ or ""
    assert "arXiv" in text
    assert "Use it" in text
    described = " ".join(c.__doc__ or "" for c in kind(name).__mro__)
    assert all(f"{option}:" in described or f"{option}, " in described for option in options(name))


@pytest.mark.parametrize("name", METHODS)
def test_operators_a_method_cannot_use_are_refused(lab: Any, name: str) -> None:
    """A biased operator where an unbiased one is needed, a lossy one where nothing may be lost, some of the clients."""
    needs = kind(name).compressor
    if needs in ("unbiased", "lossless"):
        with pytest.raises(ExperimentError, match=r"\[uplink\] name: .*topk"):
            lab.session(name, uplink={"name": "topk", "k": 1})
    if needs == "contraction":
        mixed = {"name": "switch", "of": [{"name": "topk", "k": 1}, {"name": "terngrad"}]}
        with pytest.raises(ExperimentError, match="neither"):
            lab.session(name, uplink=mixed)
    if needs == "lossless":
        with pytest.raises(ExperimentError, match=r"\[downlink\]"):
            lab.session(name, downlink={"name": "natural"})
    if kind(name).participation == "full":
        with pytest.raises(ExperimentError, match="needs all 5 clients"):
            lab.session(name, sampling="uniform", per_round=2)


@pytest.mark.parametrize("name", [name for name in METHODS if kind(name).compressor != "lossless"])
def test_it_converges_with_a_compressing_downlink(lab: Any, name: str) -> None:
    """EF21-P on the way down: the methods that keep x^{t-1} keep it as the clients received it."""
    session = lab.session(name, downlink={"name": "topk", "k": 2}, rounds=60)
    star = torch.tensor(lab.quadratic(session).x_star)
    *_, (server, _) = run_reference(session)
    assert float((server.x - star).norm()) < 1e-2 * float(star.norm())
