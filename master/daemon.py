"""flmaster from start to end: workers are spawned and dialled, runs follow each other, nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any, TextIO

import torch

from deploy.readiness import notify
from fl_core.execution.allocator import keep_freed_memory
from fl_core.execution.pool import DevicePool, default_threads, parse_devices
from fl_core.experiment.schema import Experiment
from fl_core.session import Session, open_session
from master import events
from master.cluster import Cluster
from master.event_stream import EventStream
from master.local_executor import LocalExecutor
from master.observers.metrics_endpoint import MetricsEndpoint
from master.observers.supervisor import Supervisor
from master.observers.text_log import TextLog
from master.observers.tracking import trackers
from master.one_run import OneRun, check_device, folder_of
from master.options import MasterOptions
from master.roster import Roster
from master.run_queue import RunQueue
from master.runs import check_data_root, check_runs_dir
from master.spawn import SpawnedWorkers
from master.status import StatusReporter
from master.worker_link import WorkerLink
from protocol.budget import ReceiveBudget
from protocol.errors import InputError
from protocol.settings import LinkSettings

_RECEIVE_BYTES = 64 << 20
"""Bodies of results that may be coming in or waiting, of all workers together; more for runs of large models."""

_WAIT_S = 0.05
"""So long the lines of a round may be late."""

_UNSAVED = 3
"""The exit code of a run that is done, but for something that could not be written."""


class Master:
    """Runs experiments on one cluster, one after the other or several at once.

    Args:
        out: where the plain log goes when there is no dashboard.
        spawned: workers of this run alone, already launched; closed by whoever made them.
    """

    def __init__(self, options: MasterOptions, out: TextIO, spawned: SpawnedWorkers | None = None) -> None:
        self._spawned = spawned
        self._options = options
        self._out = out
        self._stream = EventStream(time.time, wait_s=_WAIT_S)
        self._running: RunQueue | None = None
        self._stop_signal: int | None = None
        self._failure: BaseException | None = None
        self._links: list[WorkerLink] = []
        self._opened: Session | None = None

    async def run(self, experiments: Sequence[Experiment]) -> int:
        """Run them all. Returns the exit code: 0, 1 if one failed, 3 if something of one could not be written,
        128 + n when stopped by signal n.

        Raises:
            InputError: nobody could run a client, a worker's address needs a secret, or no run could begin.
        """
        torch.set_num_threads(1)
        keep_freed_memory()
        async with AsyncExitStack() as stack:
            stack.callback(self._stream.close)
            self._catch_signals(stack)
            check_runs_dir(self._options.runs_dir)
            check_data_root(self._options.data_root)
            for experiment in experiments:
                check_device(experiment, self._options)
            await self._open_first(experiments)
            await self._watch(stack)
            cluster = Cluster(self._stream.emit)
            stack.push_async_callback(cluster.close)
            await self._gather_executors(cluster, stack)
            notify("READY=1")
            self._running = self._queue(cluster, len(experiments))
            if self._stop_signal is not None or self._failure is not None:
                self._running.stop()
            all_is_well = await self._running.run(experiments)
            is_unsaved = self._running.is_unsaved
            self._running = None
        if self._failure is not None:
            raise self._failure
        if self._stop_signal is not None:
            return 128 + self._stop_signal
        return (_UNSAVED if is_unsaved else 0) if all_is_well else 1

    def stop(self, reason: str, number: int = signal.SIGINT) -> None:
        """End with everything saved; asked twice, at once."""
        if self._stop_signal is not None:
            os._exit(128 + number)
        self._stop_signal = number
        self._stream.emit(events.Stopping(time_s=time.time(), reason=reason))
        if self._running is not None:
            self._running.stop()

    # --- parts -----------------------------------------------------------------------------------------------------

    def _queue(self, cluster: Cluster, count: int) -> RunQueue:
        at_once = 1 if self._options.reference else min(self._options.parallel_runs, count)
        # Of several runs on the same sockets nobody can say which byte was whose: then there is no such metric.
        wire_bytes = self._wire_bytes if at_once == 1 else lambda: (0, 0)
        return RunQueue(lambda e: OneRun(e, self._options, cluster, self._stream, wire_bytes, self._taken()), at_once)

    async def _open_first(self, experiments: Sequence[Experiment]) -> None:
        """Open the session of a start's only run, so that what is wrong in it is said before anything else."""
        if len(experiments) != 1:
            return  # each fails alone
        is_done = self._options.resume and folder_of(experiments[0], self._options.runs_dir).status() == "finished"
        if not is_done:
            self._opened = await asyncio.to_thread(open_session, experiments[0], self._options.data_root)

    def _taken(self) -> Session | None:
        opened, self._opened = self._opened, None
        return opened

    async def _watch(self, stack: AsyncExitStack) -> None:
        if "NOTIFY_SOCKET" in os.environ:
            self._stream.subscribe(Supervisor(notify))
        if self._options.metrics_port is not None:
            self._stream.subscribe(MetricsEndpoint(self._options.metrics_host, self._options.metrics_port))
        for tracker in trackers(self._options.track, self._warn):
            self._stream.subscribe(tracker)
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
        codecs, budget = ("lz4",) if options.lz4 else (), ReceiveBudget(_RECEIVE_BYTES)
        settings = LinkSettings(codecs=codecs, tls=options.tls, budget=budget)

        def link(address: str) -> WorkerLink:
            return WorkerLink(cluster, address, options.secret, settings)

        roster = Roster(options.workers, link, self._stream.emit)
        if self._spawned is not None:
            for address in await self._spawned.addresses():
                ours = LinkSettings(codecs=codecs, budget=budget)  # of this machine: no TLS
                roster.links.append(WorkerLink(cluster, address, self._spawned.secret, ours))
        # Workers alone when they are spawned on this very machine, unless local devices are asked for by name.
        devices = [] if self._spawned is not None and options.devices == "auto" else parse_devices(options.devices)
        if not devices and not options.workers and not roster.links:
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
        self._links = roster.links
        for own in roster.links:
            self._for_the_whole_time(own.run(), stack)
        self._for_the_whole_time(roster.run(lambda work: self._for_the_whole_time(work, stack)), stack)
        self._for_the_whole_time(StatusReporter(cluster, roster.links).run(), stack)
        if roster.follows_files:
            self._on_signal(signal.SIGHUP, stack, roster.look_now)

    def _for_the_whole_time(self, work: Coroutine[None, None, None], stack: AsyncExitStack) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        stack.push_async_callback(_cancelled, task)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Only an error ends a link or the reporter: without it the run might wait for ever."""
        if not task.cancelled() and task.exception() is not None and self._failure is None:
            self._failure = task.exception()
            if self._running is not None:
                self._running.stop()

    def _warn(self, text: str) -> None:
        self._stream.emit(events.Warned(time_s=time.time(), text=text))

    def _pause(self) -> None:
        self._cluster.pause(not self._cluster.paused)

    def _wire_bytes(self) -> tuple[int, int]:
        sent = sum(link.sent_bytes + (link.executor.link.bytes_sent if link.executor else 0) for link in self._links)
        received = sum(
            link.received_bytes + (link.executor.link.bytes_received if link.executor else 0) for link in self._links
        )
        return sent, received

    def _catch_signals(self, stack: AsyncExitStack) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # a notebook's call: signals are its caller's
        for number in (signal.SIGTERM, signal.SIGINT):
            self._on_signal(number, stack, self.stop, signal.Signals(number).name, number)

    def _on_signal(self, number: int, stack: AsyncExitStack, call: Callable[..., None], *arguments: Any) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(number, call, *arguments)
        stack.callback(loop.remove_signal_handler, number)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
