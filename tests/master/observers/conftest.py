"""A story that observers can be told: a run of many rounds on many workers, with losses and warnings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest

from master.events import (
    CheckpointSaved,
    Evaluated,
    Event,
    RoundFinished,
    RoundStarted,
    RunStarted,
    TaskFinished,
    Warned,
    WorkerJoined,
    WorkerLost,
    WorkerStatus,
)

START_S = 1_700_000_000.0


def tell(workers: int, rounds: int, *, of: int = 100) -> Iterator[Event]:
    """`rounds` of `of` rounds done, the next one half done; every eighth worker is lost in the end."""
    names = ["local", *(f"gpu{number}:7000" for number in range(1, workers))]
    for name in names:
        devices = ("cpu",) if name == "local" else ("cuda:0", "cuda:1")
        yield WorkerJoined(time_s=START_S, name=name, address=name, slots=2, devices=devices)
    yield RunStarted(
        time_s=START_S,
        run="scaffold-s1-9f2ac1",
        name="digits-fedavg",
        algorithm="scaffold",
        label="scaffold, 10 %",
        data="digits",
        model="logistic",
        uplink="randk",
        rounds=of,
        clients=100,
        per_round=10,
        d=650,
        seed=1,
        digest="9f2ac1",
        folder="runs/digits-fedavg/scaffold-s1-9f2ac1",
        position=2,
        runs=6,
    )
    tasks = 2 * workers
    for number in range(1, rounds + 2):
        yield from _round("scaffold-s1-9f2ac1", number, names, tasks, number > rounds)
    for number, name in enumerate(names[::8]):
        if number:
            yield WorkerLost(time_s=START_S + rounds + 1, name=name, reason="connection reset by peer")


def _round(run: str, number: int, names: list[str], tasks: int, half: bool) -> Iterator[Event]:
    now_s = START_S + number
    yield RoundStarted(time_s=now_s, run=run, round=number, clients=10, tasks=tasks)
    for task in range(tasks // 2 if half else tasks):
        executor = names[task % len(names)]
        yield TaskFinished(time_s=now_s + 0.1, run=run, round=number, task=task, executor=executor, seconds_s=0.03)
    for index, name in enumerate(names):
        yield WorkerStatus(
            time_s=now_s + 0.3,
            name=name,
            slots=2,
            busy=index % 3,
            state="working" if index % 3 else "idle",
            memory_bytes=None if name == "local" else 1_250_000_000 + index,
            sent_bytes=None if name == "local" else 12_500 * number,
            received_bytes=None if name == "local" else 9_800 * number,
            last_heard_s=None if name == "local" else now_s + 0.2,
        )
    if half:
        yield Warned(time_s=now_s + 0.4, text="gpu3:7000 is slow: a copy of task 7 runs elsewhere")
        return
    metrics: dict[str, float | int] = {
        "clients": 10,
        "loss_train": 2.3 * math.exp(-number / 25) + 0.05 * math.sin(number),
        "bits_up": 20_800 * number,
        "bits_down": 208_000 * number,
        "oracle_calls": 180 * number,
        "round_s": 0.031,
    }
    evaluates = number % 5 == 0
    yield RoundFinished(time_s=now_s + 0.5, run=run, round=number, metrics=metrics, evaluates=evaluates)
    if evaluates:
        measured = {"f": 2.3 * math.exp(-number / 20), "accuracy": 1 - 0.9 * math.exp(-number / 12)}
        measured["grad_norm"] = 3 * math.exp(-number / 8)
        yield Evaluated(time_s=now_s + 0.6, run=run, round=number, metrics=measured)
        yield CheckpointSaved(time_s=now_s + 0.7, run=run, round=number, path=f"checkpoints/{number}")


@pytest.fixture
def story() -> list[Event]:
    """12 rounds of 100 on 4 workers."""
    return list(tell(4, 12))


@pytest.fixture
def teller() -> Callable[..., Iterator[Event]]:
    """`tell`, for stories of other sizes."""
    return tell
