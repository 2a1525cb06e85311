"""execution.json of one run: by machine, whether clients were fused there, so that a rerun does the same."""

from __future__ import annotations

from pathlib import Path

import msgspec

from fl_core.execution.choice import Decision
from master.events import Event, FusingDecided
from master.runs import machine_of, write_whole


class ExecutionRecord:
    """Keeps the file as it should be. Decisions are few: one a machine."""

    def __init__(self, path: Path, run: str) -> None:
        self._path = path
        self._run = run

    def observe(self, event: Event) -> None:
        """Write down what an executor has decided for this run."""
        if isinstance(event, FusingDecided) and event.run == self._run:
            kept = read_execution(self._path)
            kept[machine_of(event.executor)] = Decision(
                fused=event.fused,
                reason=event.reason,
                fused_s=event.fused_s,
                one_by_one_s=event.one_by_one_s,
            )
            write_whole(self._path, msgspec.json.format(msgspec.json.encode(kept)) + b"\n")

    def close(self) -> None:
        """Nothing is open."""


def read_execution(path: Path) -> dict[str, Decision]:
    """What machines have decided; a file that is not there or not legible says nothing."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Decision])
    except (OSError, msgspec.MsgspecError):
        return {}
