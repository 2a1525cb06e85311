"""Experiments run from Python (`fl_core.run`): the master of flmaster, in a thread of this process.

The thread has an event loop of its own, so the caller may have one too (Jupyter does). What comes back is read from the
run folders, so it is what `flctl` shows of the same runs.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import torch

from fl_core.errors import InputError
from fl_core.experiment.schema import Experiment
from fl_core.plugins import verify_house
from fl_core.results import Results, RunResult
from fl_core.running import RunOptions
from master.daemon import Master
from master.flctl.stored_run import StoredRun
from master.one_run import folder_of
from master.options import MasterOptions
from master.spawn import SpawnedWorkers, spawn_arguments
from protocol.secret import read_secret

_LOOK_S = 0.5


def execute(experiments: Sequence[Experiment], options: RunOptions) -> Results:
    """Run them all, wait, and read what they left; see `fl_core.run`.

    Raises:
        InputError: an option is wrong, nobody could run a client, or another process holds a run's folder.
        KeyboardInterrupt: it was interrupted; what was under way is saved.
    """
    verify_house()
    with ExitStack() as stack:
        kept = options.get("runs_dir", "runs")
        runs_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flspan-")) if kept is None else kept)
        log = options.get("log") or stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
        start = _Start(experiments, _settings(options, runs_dir), options.get("spawn", 0), log)
        threads = torch.get_num_threads()  # the master takes one for itself
        try:
            start.run()
        finally:
            torch.set_num_threads(threads)
        results = Results(_result(experiment, runs_dir) for experiment in experiments)
        for result in results:
            if kept is None:
                with suppress(FileNotFoundError):
                    _ = result.model  # while its file is there
            if result.error:
                warnings.warn(f"run {result.name} {result.status}: {result.error}", RuntimeWarning, stacklevel=3)
        return results


def _settings(options: RunOptions, runs_dir: Path) -> MasterOptions:
    secret_file, data_root, workers = options.get("secret_file"), options.get("data_root"), options.get("workers", ())
    if isinstance(workers, str):
        workers = workers.split(",")
    if not 1 <= (parallel_runs := options.get("parallel_runs", 1)) <= 64:
        raise InputError(f"parallel_runs must be from 1 to 64, not {parallel_runs}")
    return MasterOptions(
        workers=tuple(address.strip() for address in workers if address.strip()),
        devices=options.get("devices", "auto"),
        threads_per_device=options.get("threads_per_device"),
        reference=options.get("reference", False),
        data_root=None if data_root is None else Path(data_root),
        runs_dir=runs_dir,
        resume=options.get("resume", True),
        dashboard=False,
        secret=None if secret_file is None else read_secret(Path(secret_file)),
        lz4=options.get("lz4", False),
        command_line=tuple(sys.argv),
        parallel_runs=parallel_runs,
        track=tuple(options.get("track", ())),
    )


@dataclass
class _Start:
    """One start of a master in a thread."""

    experiments: Sequence[Experiment]
    settings: MasterOptions
    spawn: int
    log: TextIO
    _master: Master | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    _interrupted: bool = False
    _ended: threading.Event = field(default_factory=threading.Event)
    _error: BaseException | None = None

    def run(self) -> None:
        """Until all runs ended; an interrupt ends them early. Raises what kept them from running."""
        thread = threading.Thread(target=self._in_thread, name="flspan master", daemon=True)
        thread.start()
        try:
            self._wait()
        except KeyboardInterrupt:
            self._stop()
            self._wait()  # a second interrupt leaves at once; the checkpoints stay
            raise
        if self._error is not None:
            raise self._error

    def _wait(self) -> None:
        # A signal that comes just before a wait without end begins would not end it.
        while not self._ended.wait(_LOOK_S):
            pass

    def _in_thread(self) -> None:
        try:
            asyncio.run(self._execute())
        except BaseException as error:  # raised again where the user waits
            self._error = error
        finally:
            self._ended.set()

    async def _execute(self) -> None:
        spawned = None
        try:
            if self.spawn and not self.settings.reference:
                arguments = spawn_arguments(self.spawn, self.settings.threads_per_device, self.settings.data_root)
                spawned = SpawnedWorkers(self.spawn, self.settings.runs_dir / "worker-logs", arguments)
                await spawned.launch()
            self._master, self._loop = Master(self.settings, self.log, spawned), asyncio.get_running_loop()
            if self._interrupted:
                return
            await self._master.run(self.experiments)
        finally:
            if spawned is not None:
                await spawned.close()

    def _stop(self) -> None:
        self._interrupted = True
        if self._loop is not None and self._master is not None:
            with suppress(RuntimeError):  # the loop has ended by itself meanwhile
                self._loop.call_soon_threadsafe(self._master.stop, "it was interrupted")


def _result(experiment: Experiment, runs_dir: Path) -> RunResult:
    stored = StoredRun(folder_of(experiment, runs_dir).path)
    return RunResult(
        name=stored.name,
        status=stored.status,
        config=stored.tables,
        settings=stored.settings,
        metrics=stored.records,
        summary=stored.summary,
        folder=stored.path,
    )


__all__ = ["execute"]
