"""`--on ray [--at ADDRESS]`: each worker beside an actor, which Ray places and, when its node dies, moves.

The secret is an argument of a call of the actor: it travels as Ray's own messages do (give the cluster TLS where
strangers can listen), and is stored nowhere. flspan must be installed on the machines of the cluster.
"""

from __future__ import annotations

import socket
import uuid
from typing import Any

import ray

from deploy.launchers import hosted
from deploy.launchers.launcher import EVERYWHERE, LaunchOptions
from protocol.errors import InputError, RunError
from protocol.secret import Secret

_ANSWER_S = 1.0
"""How long a look at the actors may take; one that is being placed or moved answers later."""


class _Host:
    """The actor."""

    def ensure(self, key: str, words: list[str], secret: Secret) -> str | None:
        """See `hosted.ensure`."""
        return hosted.ensure(key, ray.util.get_node_ip_address(), words, secret)

    def release(self, key: str) -> None:
        """See `hosted.release`."""
        hosted.release(key)


class RayLauncher:
    """Actors of a job that ends with this process."""

    def __init__(self, options: LaunchOptions) -> None:
        self._options = options
        self._key = uuid.uuid4().hex
        self._actors: list[Any] = []
        self._asked: dict[int, Any] = {}  # a call that an actor has not answered yet
        self._found: dict[int, str] = {}

    def start(self) -> None:
        """Connect, and ask for the actors."""
        _require_listener(self._options.at)
        try:
            ray.init(self._options.at or "auto", log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            raise InputError(f"there is no Ray cluster at {self._options.at or 'this machine'}: {error}") from None
        actor = ray.remote(_Host).options(
            num_cpus=self._options.cpus if self._options.cpus is not None else 1,
            num_gpus=self._options.gpus or 0,
            max_restarts=-1,
        )
        self._actors = [actor.remote() for _ in range(self._options.count or 1)]

    def addresses(self) -> list[str]:
        """Ask all that owe no answer; take in what is there."""
        for number, actor in enumerate(self._actors):
            if number not in self._asked:
                words = self._options.words(number, EVERYWHERE)
                self._asked[number] = actor.ensure.remote(f"{self._key}-{number}", words, self._options.secret)
        answered, _ = ray.wait(list(self._asked.values()), num_returns=len(self._asked), timeout=_ANSWER_S)
        for number, reference in list(self._asked.items()):
            if reference in answered:
                del self._asked[number]
                self._take(number, reference)
        return [self._found[number] for number in sorted(self._found)]

    def _take(self, number: int, reference: Any) -> None:
        address = None
        try:
            address = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise RunError(f"worker {number} on Ray: {error.cause or error}") from None
        except ray.exceptions.RayActorError:
            pass  # its process or node died; Ray starts it again, and then it is asked again
        if address is None:
            self._found.pop(number, None)
        else:
            self._found[number] = address

    def stop(self) -> None:
        """Workers leave, actors end."""
        if not ray.is_initialized():
            return
        calls = [actor.release.remote(f"{self._key}-{number}") for number, actor in enumerate(self._actors)]
        if calls:
            ray.wait(calls, num_returns=len(calls), timeout=_ANSWER_S)
        for actor in self._actors:
            ray.kill(actor)  # and with its end the worker's input ends, if it has not left yet
        ray.shutdown()


def _require_listener(at: str) -> None:
    """Raise InputError if nobody listens at a plain "host:port": Ray itself would try for minutes."""
    host, colon, port = at.rpartition(":")
    if not colon or "/" in host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        raise InputError(f"there is no Ray cluster at {at}: {error.strerror or error}") from None


def make(options: LaunchOptions) -> RayLauncher:
    """One worker unless told otherwise."""
    return RayLauncher(options)
