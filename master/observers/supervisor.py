"""A line for whoever supervises the daemon: `systemctl status flmaster@digits` shows the round."""

from __future__ import annotations

from collections.abc import Callable

from master.events import Event, RoundFinished, RunFinished, RunStarted, Stopping, WaitingForWorkers


class Supervisor:
    """Tells it what is going on. `notify` takes assignments, as "STATUS=…"."""

    def __init__(self, notify: Callable[..., bool]) -> None:
        self._notify = notify
        self._run: RunStarted | None = None

    def observe(self, event: Event) -> None:
        """Say what is new."""
        match event:
            case RunStarted():
                self._run = event
                self._notify(f"STATUS={event.run}: begins, run {event.position} of {event.runs}")
            case RoundFinished() if self._run is not None:
                self._notify(f"STATUS={event.run}: round {event.round}/{self._run.rounds}")
            case RunFinished():
                self._notify(f"STATUS={event.run}: {event.reason}")
            case WaitingForWorkers():
                self._notify(f"STATUS=no worker lives; {event.tasks} tasks wait for one")
            case Stopping():
                self._notify("STOPPING=1", f"STATUS=stopping: {event.reason}")
            case _:
                pass

    def close(self) -> None:
        """Nothing is held."""
