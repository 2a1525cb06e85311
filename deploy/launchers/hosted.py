"""A worker beside a process of an engine (an actor of Ray, a worker of Dask), on whichever machine that is.

`ensure` is called again and again: it starts the worker where it is not running, and tells its address. When the
calls cease, or the engine's process ends, the worker leaves: nothing is left behind by a launcher that was killed.
"""

from __future__ import annotations

import threading
import time

from deploy.launchers.kept_worker import LEAVE_S, KeptWorker
from deploy.launchers.launcher import local_flworker
from protocol.secret import Secret

LEASE_S = 60.0
"""Without a call for so long, whoever launched the worker is gone."""

_here: dict[str, KeptWorker] = {}
_called_s: dict[str, float] = {}
_lock = threading.Lock()


def ensure(key: str, host: str, words: list[str], secret: Secret) -> str | None:
    """Where the worker of that key listens; None while it is starting. Raises RunError as KeptWorker does."""
    with _lock:
        _called_s[key] = time.monotonic()
        if key not in _here:
            _here[key] = KeptWorker([*local_flworker(), *words], secret, host, None)
            threading.Thread(target=_watch, args=(key,), daemon=True).start()
        return _here[key].address()


def release(key: str) -> None:
    """Let the worker of that key go."""
    with _lock:
        worker = _here.pop(key, None)
    if worker is not None:
        worker.leave()
        threading.Thread(target=worker.ended, args=(time.monotonic() + LEAVE_S,), daemon=True).start()


def _watch(key: str) -> None:
    while key in _here:
        if time.monotonic() - _called_s[key] > LEASE_S:
            release(key)
        time.sleep(LEASE_S / 10)
