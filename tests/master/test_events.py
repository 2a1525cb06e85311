"""Events: what is stored comes back, and what is no event is refused."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from master.events import KINDS, Event, Paused, RoundFinished, WorkerJoined, decode, encode
from protocol.errors import InputError

events = st.one_of([st.from_type(kind) for kind in KINDS.values()])


@given(events)
def test_every_event_survives_json(event: Event) -> None:
    """encode -> JSON text -> decode gives the same event, types included (nan compared as text)."""
    back = decode(json.loads(json.dumps(encode(event))))
    assert type(back) is type(event)
    assert repr(back) == repr(event)


def test_a_diverged_metric_survives_json() -> None:
    """nan and inf are measurements; they are stored as such."""
    event = RoundFinished(time_s=1.0, run="r", round=3, metrics={"f": math.nan, "grad_norm": math.inf, "clients": 3})
    back = decode(json.loads(json.dumps(encode(event))))
    assert isinstance(back, RoundFinished)
    assert math.isnan(back.metrics["f"])
    assert back.metrics["grad_norm"] == math.inf
    assert type(back.metrics["clients"]) is int


def test_an_event_is_frozen() -> None:
    """No observer can change what the next one sees."""
    event = WorkerJoined(time_s=0.0, name="w", address="h:1", slots=1, devices=("cpu",))
    with pytest.raises(AttributeError):
        event.slots = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("stored", "says"),
    [
        ({}, "no event is called None"),
        ({"event": "Metrics", "time_s": 0.0}, "no event is called 'Metrics'"),
        ({"event": ["Paused"]}, "no event is called"),
        ({"event": "Warned", "time_s": 0.0}, "missing required field `text`"),
        ({"event": "Warned", "time_s": "now", "text": ""}, "time_s"),
        (
            {"event": "RoundFinished", "time_s": 0.0, "run": "r", "round": 1, "metrics": {"f": None}},
            "metrics",
        ),
    ],
)
def test_what_is_no_event_is_refused(stored: dict[str, object], says: str) -> None:
    """The sentence names the kind and the field."""
    with pytest.raises(InputError, match=says):
        decode(stored)


def test_a_field_of_a_newer_version_is_left_out() -> None:
    """An old watcher can follow a new run."""
    assert decode({"event": "Paused", "time_s": 1.5, "why": "lunch"}) == Paused(time_s=1.5)
