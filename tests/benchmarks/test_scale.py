"""A population costs the memory of its data, a long run costs none: measured on the real flmaster."""

from __future__ import annotations

import pytest

from benchmarks.scale import Soak, experiment, population, soak

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("scale")]


def test_the_slope_is_that_of_the_line() -> None:
    """Bytes a round, of the rounds after the warm-up and before the end."""
    points = tuple((r, 1000 + 3 * r if 100 <= r <= 350 else 10**6 * r) for r in range(1, 400, 7))
    assert Soak(points).growth_bytes(100, 350) == pytest.approx(3.0)


def test_memory_stays_flat_for_1500_rounds() -> None:
    """Q-like: less than 3 MB per 1,000 rounds after 400 (what allocators keep varies by 1 MB in so short a run)."""
    found = soak(1_500, experiment(100, 100, 1_500))
    assert len(found.points) > 3
    assert found.growth_bytes(400, 1_150) * 1_000 < 3 << 20


@pytest.mark.soak
def test_memory_stays_flat_for_10000_rounds() -> None:
    """Less than 1 MB per 1,000 rounds after 2,500, with a stateful method and a server optimizer."""
    tables = experiment(100, 50, 10_000) | {
        "algorithm": {"name": "scaffold"},
        "server": {"optimizer": {"name": "adam", "lr": 0.01}},
        "checkpoint": {"every": 500},
    }
    assert soak(10_000, tables).growth_bytes(2_500, 9_000) * 1_000 < 1 << 20


@pytest.mark.soak
@pytest.mark.parametrize(("total", "most_bytes"), [(50_000, 800 << 20), (1_000_000, 4 << 30)])
def test_a_large_population(total: int, most_bytes: int) -> None:
    """10,000 a round: under 4 GB for a million clients, and as fast a client as with a thousand."""
    small, large = population(1_000, 1_000), population(total, 10_000)
    assert large.peak_bytes < most_bytes
    assert large.client_us < 2 * small.client_us  # other programs on the machine may double either
