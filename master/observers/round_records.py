"""RoundFinished and Evaluated of one round as one record, in round order, once it is complete.

Evaluation runs while later rounds go on, so its numbers come late; a record waits for them, and those after
it wait too. What is kept is bounded by how far evaluation lags.
"""

from __future__ import annotations

from dataclasses import dataclass

from master.events import Evaluated, Event, Metrics, RoundFinished, RunFinished

_KINDS = (RoundFinished, Evaluated, RunFinished)


@dataclass(slots=True)
class _Held:
    metrics: Metrics
    waits: bool


class RoundRecords:
    """The records of one run."""

    def __init__(self, run: str) -> None:
        self.run = run
        self._held: dict[int, _Held] = {}  # in round order, as rounds finish in order

    def take(self, event: Event) -> list[tuple[int, Metrics]]:
        """What is complete now: (round, metrics) in round order. The end of the run completes all.

        ValueError: Evaluated of a round that did not announce it, or a round that finished twice.
        """
        if not isinstance(event, _KINDS) or event.run != self.run:
            return []
        if isinstance(event, RunFinished):
            for held in self._held.values():
                held.waits = False
        elif isinstance(event, RoundFinished):
            if event.round in self._held:
                raise ValueError(f"round {event.round} of run {self.run} finished twice")
            self._held[event.round] = _Held(dict(event.metrics), event.evaluates)
        else:
            held = self._held.get(event.round, _Held({}, False))
            if not held.waits:
                raise ValueError(f"nobody awaits an evaluation of round {event.round} of run {self.run}")
            held.metrics.update(event.metrics)
            held.waits = False
        return self._complete()

    def _complete(self) -> list[tuple[int, Metrics]]:
        complete: list[tuple[int, Metrics]] = []
        for number, held in self._held.items():
            if held.waits:
                break
            complete.append((number, held.metrics))
        for number, _ in complete:
            del self._held[number]
        return complete
