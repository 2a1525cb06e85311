"""flmaster from start to end: workers are spawned and dialled, runs follow each other, nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import TextIO

import torch

from fl_core.execution.pool import DevicePool, default_threads, parse_devices
from fl_core.experiment.schema import Experiment
from master import events
from master.cluster import Cluster
from master.event_stream import EventStream
from master.local_executor import LocalExecutor
from master.observers.text_log import TextLog
from master.one_run import OneRun
from master.options import MasterOptions
from master.spawn import SpawnedWorkers
from master.status import StatusReporter
from master.worker_link import WorkerLink
from protocol.errors import InputError
from protocol.settings import LinkSettings


class Master:
    """Runs experiments one after the other on one cluster.

    Args:
        out: where the plain log goes when there is no dashboard.
        spawned: workers of this run alone, already launched; closed by whoever made them.
    """

    def __init__(self, options: MasterOptions, out: TextIO, spawned: SpawnedWorkers | None = None) -> None:
        self._spawned = spawned
        self._options = options
        self._out = out
        self._stream = EventStream(time.time)
        self._running: OneRun | None = None
        self._stop_signal: int | None = None
        self._failure: BaseException | None = None
        self._links: list[WorkerLink] = []

    async def run(self, experiments: Sequence[Experiment]) -> int:
        """Run them all. Returns the exit code: 0, 1 if one failed, 128 + n when stopped by signal n.

        Raises:
            InputError: nobody could run a client, or a worker's address needs a secret.
        """
        torch.set_num_threads(1)
        failed = False
        async with AsyncExitStack() as stack:
            stack.callback(self._stream.close)
            self._catch_signals(stack)
            await self._watch(stack)
            cluster = Cluster(self._stream.emit)
            stack.push_async_callback(cluster.close)
            await self._gather_executors(cluster, stack)
            for position, experiment in enumerate(experiments, start=1):
                if self._stop_signal is not None or self._failure is not None:
                    break
                run = OneRun(experiment, self._options, cluster, self._stream, self._wire_bytes)
                self._running = run
                failed |= not await run.execute(position, len(experiments))
                self._running = None
        if self._failure is not None:
            raise self._failure
        if self._stop_signal is not None:
            return 128 + self._stop_signal
        return 1 if failed else 0

    def stop(self, reason: str, number: int = signal.SIGINT) -> None:
        """End with everything saved; asked twice, at once."""
        if self._stop_signal is not None:
            os._exit(128 + number)
        self._stop_signal = number
        self._stream.emit(events.Stopping(time_s=time.time(), reason=reason))
        if self._running is not None:
            self._running.stop()

    # --- parts -----------------------------------------------------------------------------------------------------

    async def _watch(self, stack: AsyncExitStack) -> None:
        if not (self._options.dashboard and self._out.isatty()):
            self._stream.subscribe(TextLog(self._out, checkpoints=False))
            return
        from rich.console import Console

        from master.observers.dashboard import Dashboard  # only a terminal needs it

        dashboard = Dashboard(Console(), on_stop=lambda: self.stop("q was pressed"), on_pause=self._pause)
        self._stream.subscribe(dashboard)
        await stack.enter_async_context(dashboard)

    async def _gather_executors(self, cluster: Cluster, stack: AsyncExitStack) -> None:
        options = self._options
        self._cluster = cluster
        if options.reference:
            return  # one thread, and nobody else
        if len(set(options.workers)) < len(options.workers):
            raise InputError(f"--workers {','.join(options.workers)}: an address is there twice")
        settings = LinkSettings(codecs=("lz4",) if options.lz4 else ())
        links = [WorkerLink(cluster, address, options.secret, settings) for address in options.workers]
        if self._spawned is not None:
            for address in await self._spawned.addresses():
                links.append(WorkerLink(cluster, address, self._spawned.secret, settings))
        # Workers alone when they are spawned on this very machine, unless local devices are asked for by name.
        devices = [] if self._spawned is not None and options.devices == "auto" else parse_devices(options.devices)
        if not devices and not links:
            raise InputError("nobody is there to run clients: give --devices, --workers or --spawn")
        if devices:
            pool = DevicePool(devices, options.threads_per_device or default_threads(devices[0]))
            stack.callback(pool.close)
            local = LocalExecutor(cluster, pool)
            names = tuple(str(device) for device in devices)
            self._stream.emit(
                events.WorkerJoined(time_s=time.time(), name="local", address="local", slots=pool.slots, devices=names)
            )
            cluster.join(local)
        self._links = links
        for link in links:
            self._for_the_whole_time(link.run(), stack)
        self._for_the_whole_time(StatusReporter(cluster, links).run(), stack)

    def _for_the_whole_time(self, work: Coroutine[None, None, None], stack: AsyncExitStack) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        stack.push_async_callback(_cancelled, task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Only an error ends a link or the reporter: without it the run might wait for ever."""
        if not task.cancelled() and self._failure is None:
            self._failure = task.exception()
            if self._running is not None:
                self._running.stop()

    def _pause(self) -> None:
        self._cluster.pause(not self._cluster.paused)

    def _wire_bytes(self) -> tuple[int, int]:
        sent = sum(link.sent_bytes + (link.executor.link.bytes_sent if link.executor else 0) for link in self._links)
        received = sum(
            link.received_bytes + (link.executor.link.bytes_received if link.executor else 0) for link in self._links
        )
        return sent, received

    def _catch_signals(self, stack: AsyncExitStack) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop, signal.Signals(number).name, number)
            stack.callback(loop.remove_signal_handler, number)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
