"""Waiting for a job. (That it lets the program end: `tests/fl_core/execution/test_pool.py`.)"""

from __future__ import annotations

from queue import SimpleQueue

import pytest

from fl_core import side_jobs
from fl_core.side_jobs import next_job


def test_jobs_come_in_order_until_there_are_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes after many vain looks is taken as well; None is the end."""
    monkeypatch.setattr(side_jobs, "_LOOK_S", 1e-4)
    looks = 0

    class Looked(SimpleQueue):  # type: ignore[type-arg]
        def get(self, block: bool = True, timeout: float | None = None) -> int | None:
            nonlocal looks
            looks += 1
            if looks == 20:
                self.put(3)
            return super().get(block, timeout)  # type: ignore[no-any-return]

    jobs: SimpleQueue[int | None] = Looked()
    assert next_job(jobs) == 3
    assert looks == 20
    jobs.put(4)
    jobs.put(None)
    assert [next_job(jobs), next_job(jobs)] == [4, None]
