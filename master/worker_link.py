"""The master's side of one address of `--workers`: dial it, dial again when it is lost, for ever."""

from __future__ import annotations

import asyncio
import random
import time

from master import events
from master.cluster import Cluster
from master.remote_executor import RemoteExecutor
from protocol.address import parse_address
from protocol.errors import ProtocolError
from protocol.link import Link
from protocol.settings import LinkSettings
from protocol.transport import dial

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 5.0
"""Between attempts to reach a worker: exponential with full jitter, for ever."""
_CLOSED_HERE = "closed by the master"


class WorkerLink:
    """One address of `--workers`: dialled for ever, an executor of the cluster while it answers.

    Args:
        address: "host:port".
        secret: shared with the worker; None only on loopback.
    """

    def __init__(self, cluster: Cluster, address: str, secret: bytes | None, settings: LinkSettings) -> None:
        self.address = address
        self.host, self.port = parse_address(address)
        self.executor: RemoteExecutor | None = None
        self.sent_bytes = 0
        self.received_bytes = 0
        self._cluster = cluster
        self._secret = secret
        self._settings = settings
        self._incarnations = 0
        self._has_joined = False
        self._said: str | None = None

    async def run(self) -> None:
        """Serve the worker until cancelled; then say goodbye. Raises InputError: the address needs a secret."""
        delay = FIRST_DELAY_S
        while True:
            try:
                link = await dial(self.host, self.port, secret=self._secret, settings=self._settings)
            except (OSError, TimeoutError, ProtocolError) as error:
                self._warn(f"worker {self.address} cannot be reached: {self._told(error)}; trying on")
            else:
                if (twin := self._twin(link)) is not None:
                    self._warn(f"worker {self.address} is {twin} under another name: it is used once")
                    await link.close("this master uses the worker under another name")
                elif await self._serve(link):
                    delay = FIRST_DELAY_S
            await asyncio.sleep(random.uniform(0, delay))  # full jitter: workers that died together return apart
            delay = min(2 * delay, LONGEST_DELAY_S)

    def _twin(self, link: Link) -> str | None:
        """The address under which this very process is an executor already."""
        assert link.peer is not None
        for executor in self._cluster.executors.values():
            if isinstance(executor, RemoteExecutor) and executor.info.incarnation == link.peer.incarnation:
                return executor.name
        return None

    async def _serve(self, link: Link) -> bool:
        """Whether it took part in anything: one that sends us away is not dialled without pause."""
        self._incarnations += 1
        executor = RemoteExecutor(self._cluster, link, self.address, self._incarnations)
        serving = asyncio.create_task(executor.serve())
        reason = _CLOSED_HERE
        try:
            for run in list(self._cluster.runs.values()):
                executor.prepare(run)
                ready = asyncio.create_task(executor.ready(run.name))
                await asyncio.wait((serving, ready), return_when=asyncio.FIRST_COMPLETED)
                ready.cancel()
                if run.name not in self._cluster.runs:
                    executor.forget(run.name)  # over before the worker was ready for it
            if not serving.done():
                self._join(executor)
            if (error := await serving) is not None:
                reason = self._told(error)
        finally:
            serving.cancel()
            self._leave(executor, reason)
            await link.close(reason)
        return executor.has_served

    def _join(self, executor: RemoteExecutor) -> None:
        self.executor = executor
        self._said = None
        kind = events.WorkerReturned if self._has_joined else events.WorkerJoined
        self._has_joined = True
        self._cluster.emit(
            kind(
                time_s=time.time(),
                name=self.address,
                address=self.address,
                slots=executor.slots,
                devices=tuple(executor.info.devices),
            )
        )
        self._cluster.join(executor)

    def _leave(self, executor: RemoteExecutor, reason: str) -> None:
        self.sent_bytes += executor.link.bytes_sent
        self.received_bytes += executor.link.bytes_received
        joined, self.executor = self.executor is not None, None
        self._cluster.lose(executor)
        if reason == _CLOSED_HERE:
            return
        if joined:
            self._cluster.emit(events.WorkerLost(time_s=time.time(), name=self.address, reason=reason))
        else:
            self._warn(f"worker {self.address}: {reason}")

    def _told(self, error: BaseException) -> str:
        """The error without the address, which whoever reads it sees already."""
        return str(error).removeprefix(f"{self.address}: ") or type(error).__name__

    def _warn(self, text: str) -> None:
        if text != self._said:  # once, not at every attempt
            self._said = text
            self._cluster.emit(events.Warned(time_s=time.time(), text=text))


__all__ = ["WorkerLink", "parse_address"]
