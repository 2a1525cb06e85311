"""The daemon: one listening port, one pool, one master at a time; drains on SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import msgspec
import torch

from deploy.metrics_endpoint import serve_metrics
from deploy.readiness import notify
from fl_core.execution.allocator import keep_freed_memory
from fl_core.execution.memory import gpu_bytes, resident_bytes
from fl_core.execution.pool import DevicePool, default_threads, parse_devices
from protocol.errors import InputError, ProtocolError
from protocol.fields import WorkerInfo, clipped
from protocol.link import Link, Memory
from protocol.settings import LinkSettings
from protocol.tls import Tls
from protocol.transport import listen
from worker.metrics import samples
from worker.runs import Runs
from worker.serving import Serving

logger = logging.getLogger("flworker")

DRAIN_S = 30.0
"""How long a SIGTERM waits for running tasks."""
VISIT_S = 5.0
"""How long one who only asks how this worker is may stay."""
ABANDONED_S = 3.0
"""How long a spawned worker whose master is gone waits for them: nobody wants their results."""


@dataclass(frozen=True)
class WorkerOptions:
    """What the command line says."""

    host: str
    port: int
    devices: str
    threads_per_device: int | None
    secret: bytes | None
    data_root: Path | None
    user_code: bool
    lz4: bool
    spawned: bool
    tls: Tls | None = None
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None


class Daemon:
    """A worker process.

    Args:
        options: of the command line.
    """

    def __init__(self, options: WorkerOptions) -> None:
        devices = parse_devices(options.devices)
        if not devices:
            raise InputError("--devices none: a worker needs a device")
        threads = options.threads_per_device or default_threads(devices[0])
        # Operations of one thread each, so that all workers of a run round alike; see `[execution] intra_op_threads`.
        torch.set_num_threads(1)
        keep_freed_memory()
        self._options = options
        self._pool = DevicePool(devices, threads)
        self._runs = Runs(options.data_root, options.user_code)
        self._serving: Serving | None = None
        self._stopping = asyncio.Event()
        self._tasks_before = 0  # answered on links that are over
        self._started_s = time.monotonic()
        self._info = WorkerInfo(
            incarnation=uuid.uuid4().hex,
            name=socket.gethostname(),
            pid=os.getpid(),
            slots=self._pool.slots,
            devices=[str(device) for device in devices],
            torch=str(torch.__version__),
            python=platform.python_version(),
            user_code=options.user_code,
            version=version("flspan"),
        )

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; then drain. A second signal ends the process at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        if self._options.spawned:
            loop.add_reader(sys.stdin.fileno(), self._stdin)
        server = await listen(
            self._options.host,
            self._options.port,
            secret=self._options.secret,
            info=self._info_now,
            settings=LinkSettings(codecs=("lz4",) if self._options.lz4 else (), tls=self._options.tls),
            on_link=self._serve,
        )
        logger.info("%s slots on %s, pid %s", self._pool.slots, ", ".join(self._info.devices), self._info.pid)
        # The line that a supervisor, and `flmaster --spawn`, waits for.
        print(f"flworker listening on {self._options.host}:{server.port}", flush=True)
        notify("READY=1", f"STATUS=listening on port {server.port}")
        stop_metrics = self._serve_metrics()
        await self._stopping.wait()
        notify("STOPPING=1", "STATUS=draining")
        await self._drain()
        stop_metrics()
        await server.close()
        await asyncio.to_thread(self._pool.close)

    def _info_now(self) -> WorkerInfo:
        """What this worker is and does at this moment."""
        serving = self._serving
        return msgspec.structs.replace(
            self._info,
            state="draining" if self._stopping.is_set() else "idle" if serving is None else "serving",
            master="" if serving is None else clipped(serving.master, 256),
            run="" if serving is None else serving.present_run,
            busy=0 if serving is None else serving.busy,
            tasks=self._tasks_before + (0 if serving is None else serving.answered),
            uptime_s=int(time.monotonic() - self._started_s),
        )

    def _serve_metrics(self) -> Callable[[], None]:
        options = self._options
        if options.metrics_port is None:
            return lambda: None
        return serve_metrics(options.metrics_host, options.metrics_port, lambda: samples(self._info_now()))

    async def _serve(self, link: Link) -> None:
        if link.connection.is_visit:  # flctl ping: it has what it came for, and leaves by itself
            with suppress(ProtocolError, TimeoutError):
                async with asyncio.timeout(VISIT_S):
                    await link.receive()
            await link.close("you have seen what there is")
            return
        if self._serving is not None:
            logger.warning("%s was sent away: this worker serves another one", link.name)
            await link.close("busy: this worker serves another master")
            return
        logger.info("serving %s", link.name)
        link.own_memory = lambda: Memory(resident_bytes(), gpu_bytes(self._pool.devices))
        self._serving = Serving(link, self._pool, self._runs.prepare)
        reason = "done"
        try:
            if (error := await self._serving.run()) is not None:
                reason = str(error)
        finally:
            self._tasks_before += self._serving.answered
            self._serving = None
            logger.info("%s is gone: %s", link.name, reason)
            await link.close(reason)

    async def _drain(self) -> None:
        if self._serving is None:
            return
        logger.info("draining: %s tasks to finish", self._serving.busy)
        with suppress(TimeoutError, ProtocolError):
            async with asyncio.timeout(DRAIN_S):
                await self._serving.drain()

    def _signalled(self, number: int) -> None:
        if self._stopping.is_set():
            os._exit(128 + number)
        logger.info("%s: leaving", signal.Signals(number).name)
        self._stopping.set()

    def _stdin(self) -> None:
        """The pipe from the master that spawned this worker; its end means that the master is gone."""
        if os.read(sys.stdin.fileno(), 4096):
            return
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        logger.info("the master that spawned this worker is gone: leaving")
        self._stopping.set()
        at_the_latest = threading.Timer(ABANDONED_S, os._exit, (0,))  # a thread that computes cannot be stopped
        at_the_latest.daemon = True
        at_the_latest.start()
