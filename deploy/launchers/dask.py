"""`--on dask --at SCHEDULER`: a flworker beside each worker of a Dask cluster; follows those that come and go.

`--at` is the scheduler's address (tcp://…, tls://…) or its scheduler file. The secret is an argument of a call: it
travels as Dask's own messages do (TLS, where the cluster has it), and is stored nowhere. flspan must be installed on
the machines of the cluster.
"""

from __future__ import annotations

import uuid
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from distributed import Client

from deploy.launchers import hosted
from deploy.launchers.launcher import EVERYWHERE, LaunchOptions
from protocol.errors import InputError, RunError

_CONNECT_S = 10


class DaskLauncher:
    """Calls functions beside the cluster's workers, outside its queue of tasks."""

    def __init__(self, options: LaunchOptions) -> None:
        if not options.at:
            raise InputError("--on dask needs the scheduler: --at tcp://HOST:8786, or --at SCHEDULER-FILE")
        self._options = options
        self._key = uuid.uuid4().hex
        self._client: Any = None
        self._places: dict[int, str] = {}  # worker number -> the Dask worker that hosts it

    def start(self) -> None:
        """Connect."""
        at = self._options.at
        place = {"scheduler_file": at} if Path(at).is_file() else {"address": at}
        try:
            self._client = Client(  # type: ignore[no-untyped-call]  # its own code is not typed
                **place, timeout=_CONNECT_S, set_as_default=False, name="flspan"
            )
        except (OSError, ValueError, TimeoutError) as error:
            raise InputError(f"there is no Dask scheduler at {at}: {error}") from None

    def addresses(self) -> list[str]:
        """Find a Dask worker for each that has none; ask them all."""
        alive = list(self._client.scheduler_info(n_workers=-1)["workers"])
        self._place(alive)
        found = []
        for number, worker in sorted(self._places.items()):
            words = self._options.words(number, EVERYWHERE)
            address = self._call(worker, hosted.ensure, self._name(number), _host(worker), words, self._options.secret)
            if isinstance(address, RunError):
                raise RunError(f"worker {number} on {worker}: {address}")
            if isinstance(address, str):
                found.append(address)
        return found

    def _place(self, alive: list[str]) -> None:
        self._places = {number: worker for number, worker in self._places.items() if worker in alive}
        held = Counter(self._places.values())
        for number in range(self._options.count or len(alive)):
            if number not in self._places and alive:
                self._places[number] = worker = min(alive, key=lambda name: held[name])
                held[worker] += 1

    def _call(self, worker: str, function: Any, *arguments: Any) -> Any:
        """Its result, or the error it raised; None when the Dask worker went away meanwhile."""
        try:
            return self._client.run(function, *arguments, workers=[worker], on_error="return").get(worker)
        except (OSError, ValueError, TimeoutError):
            return None

    def _name(self, number: int) -> str:
        return f"{self._key}-{number}"

    def stop(self) -> None:
        """Workers leave; the cluster stays as it was."""
        if self._client is None:
            return
        for number, worker in self._places.items():
            self._call(worker, hosted.release, self._name(number))
        self._client.close()


def _host(worker: str) -> str:
    """The machine in tcp://host:port."""
    return urlparse(worker).hostname or worker


def make(options: LaunchOptions) -> DaskLauncher:
    """As many as Dask has workers, unless told otherwise."""
    return DaskLauncher(options)
