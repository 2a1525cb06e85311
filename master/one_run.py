"""One run of one experiment: its folder, its observers, its rounds, its summary."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import safetensors.torch

from fl_core.errors import ExperimentError, InputError, RunError, UserCodeError
from fl_core.execution.pool import parse_devices
from fl_core.experiment.schema import Experiment
from fl_core.session import Session, open_session
from master import checkpoint, events
from master.checkpoint import Checkpoint
from master.cluster import Cluster
from master.event_stream import EventStream
from master.observers.execution_record import read_execution
from master.observers.metrics_jsonl import last_round
from master.observers.text_log import TRACEBACK, TextLog
from master.options import MasterOptions
from master.outcome import Outcome, told
from master.reference_loop import ReferenceLoop
from master.round_loop import RoundLoop
from master.run_files import RunFiles
from master.runs import RunFolder, environment, run_name, write_whole, writing_runs


class OneRun:
    """A run, from its folder to its summary.

    Args:
        opened: its session, if it has been opened already.
    """

    def __init__(
        self,
        experiment: Experiment,
        options: MasterOptions,
        cluster: Cluster,
        stream: EventStream,
        wire_bytes: Callable[[], tuple[int, int]],
        opened: Session | None = None,
    ) -> None:
        self._opened = opened
        self._experiment = experiment
        self._options = options
        self._cluster = cluster
        self._stream = stream
        self._wire_bytes = wire_bytes
        self.folder = folder_of(experiment, options.runs_dir)
        self.name = self.folder.path.name
        self._loop: RoundLoop | ReferenceLoop | None = None
        self._stopped = False
        self._files: RunFiles | None = None
        self._is_done = False
        self._is_unsaved = False
        self._io = asyncio.get_running_loop()

    @property
    def is_unsaved(self) -> bool:
        """Whether something of it could not be written: a checkpoint, a line, a result."""
        return self._is_unsaved or (self._files is not None and self._files.is_unsaved)

    def stop(self) -> None:
        """End after the round under way."""
        self._stopped = True
        if self._loop is not None:
            self._loop.stop()

    async def execute(self, position: int, of: int) -> bool:
        """Run what is left of it. False: it failed (the text is in its summary and its log)."""
        if self._options.resume and self.folder.status() == "finished":
            self._is_done = True
            await self._check_finished()
            text = f"run {self.name} is finished already: {self.folder.path} (--no-resume runs it again)"
            self._stream.emit(events.Noted(time_s=time.time(), text=text))
            return True
        session, self._opened = self._opened, None
        if session is None:
            session = await asyncio.to_thread(open_session, self._experiment, self._options.data_root)
        with ExitStack() as stack:
            stack.callback(self._cluster.close_run, self.name)  # the loop has done so, if there came to be one
            devices = [str(device) for device in parse_devices(self._options.devices)]
            started = environment(self._options.command_line, devices)
            with writing_runs(self._options.runs_dir):
                stack.enter_context(self.folder.open(self._experiment.to_toml(), started))
                resumed = await self._resumable(session)
                if resumed is None:
                    self.folder.begin_anew()
                for source in self._experiment.sources:
                    write_whole(self.folder.path / source.name, source.text.encode())
                after_round = -1 if resumed is None else resumed.round
                files = self._files = RunFiles(self.folder, self.name, self._stream, after_round, self._warn)
                stack.callback(files.close)
            self._loop = self._make_loop(session, resumed, files)
            if self._stopped:
                self._loop.stop()
            self._emit_start(session, 0 if resumed is None else resumed.round, position, of)
            stack.callback(self._let_go)
            outcome = await self._end(session, files, await self._loop.run())
            summary = {name: value for name, value in outcome.metrics.items() if math.isfinite(value)}
            self._stream.emit(
                events.RunFinished(
                    time_s=time.time(),
                    run=self.name,
                    reason=outcome.reason,
                    summary=summary,
                    text=self._placed(outcome.text),
                )
            )
            files.flush()
            files.lacking()
        return outcome.reason != "failed"

    def refuse(self, error: InputError | UserCodeError) -> None:
        """Write down and say that it could not begin, as of a run that failed."""
        text = told(error)
        try:
            with self.folder.open(self._experiment.to_toml(), environment(self._options.command_line, [])):
                if not self._is_done:  # what it has stays true of the data that it was begun with
                    self.folder.write_summary({"reason": "failed", "rounds": 0, "metrics": {}, "error": text})
                with self.folder.log.open("a", encoding="utf-8") as log:
                    TextLog(log, timestamps=True, run=self.name).observe(self._failure(text))
        except (InputError, OSError):
            pass  # the folder itself is what is wrong: then there is nowhere to write it down
        self._stream.emit(self._failure(text))

    # --- parts -----------------------------------------------------------------------------------------------------

    def _let_go(self) -> None:
        self._loop = None  # which holds `_save` of this: a circle keeps the data of all runs of a sweep

    def _failure(self, text: str) -> events.RunFinished:
        text = self._placed(text)
        return events.RunFinished(time_s=time.time(), run=self.name, reason="failed", summary={}, text=text)

    def _placed(self, text: str) -> str:
        """The text, with where its traceback is to be read: a terminal shows none."""
        said, traceback, frames = text.partition(TRACEBACK)
        return f"{said} (traceback in {self.folder.log}){traceback}{frames}" if traceback else text

    def _warn(self, text: str) -> None:
        self._stream.emit(events.Warned(time_s=time.time(), text=text))

    async def _check_finished(self) -> None:
        """Raise InputError if a finished run's data are other ones now.

        Only where the user's own code gives them: it may read files of which the experiment's digest knows nothing.
        """
        if not self._experiment.data.plug.is_file:
            return
        try:
            session = await asyncio.to_thread(open_session, self._experiment, self._options.data_root)
        except (InputError, UserCodeError):
            return  # they are not there any more: the run is as good as it was
        await self._check_data(session, (self.folder.summary() or {}).get("data_sha256"))

    async def _check_data(self, session: Session, begun_with: object) -> None:
        """Raise InputError if the data are not those (a digest) that it was begun with; without one nobody knows."""
        if not begun_with:
            return
        found = await asyncio.to_thread(lambda: session.data_sha256)
        if found != begun_with:
            digests = f"sha256 {str(begun_with)[:12]}… then, {found[:12]}… now"
            raise InputError(
                f"run {self.name} was begun with other data ({digests}): what "
                f'"{self._experiment.data.plug.name}" reads has changed, or this machine computes it otherwise; '
                "put the data back to go on, or --no-resume begins the run anew with these"
            )

    async def _resumable(self, session: Session) -> Checkpoint | None:
        """What to go on from, and nothing newer is left. InputError: the data have changed."""
        if not self._options.resume or self._options.reference:
            return None
        found, complaints = checkpoint.latest(self.folder.checkpoints, last_round(self.folder.metrics))
        for text in complaints:
            self._warn(text)
        if found is not None:
            await self._check_data(session, found.data_sha256)
            checkpoint.keep_two(self.folder.checkpoints, found.round)
        elif complaints:
            self._warn(f"run {self.name} begins anew: none of its checkpoints can be used")
        return found

    def _make_loop(self, session: Session, resumed: Checkpoint | None, files: RunFiles) -> RoundLoop | ReferenceLoop:
        check_device(self._experiment, self._options)
        if self._options.reference:
            return ReferenceLoop(self.name, session, self._stream.emit)
        decided = read_execution(self.folder.execution) if self._options.resume else {}
        self._cluster.open_run(self.name, session, decided)
        save = partial(self._save, session, files)
        loop = RoundLoop(self.name, session, self._cluster, save, self._wire_bytes, files.flush)
        try:
            loop.keep_memories_in(self.folder.path)
            if resumed is not None:
                loop.resume(resumed)
        except (RunError, OSError) as error:  # it is this folder's file: other runs fare better
            raise InputError(str(error)) from error
        return loop

    def _emit_start(self, session: Session, done: int, position: int, of: int) -> None:
        e = self._experiment
        for text in session.notes:
            self._stream.emit(events.Noted(time_s=time.time(), text=text))
        self._stream.emit(
            events.RunStarted(
                time_s=time.time(),
                run=self.name,
                name=e.name,
                algorithm=e.algorithm.name,
                rounds=e.rounds,
                clients=e.clients.total,
                per_round=e.clients.per_round or e.clients.total,
                d=session.problem.d,
                seed=e.seed,
                digest=e.digest(),
                folder=str(self.folder.path),
                label=e.label,
                model=e.model.plug.name,
                data=e.data.plug.name,
                uplink=e.uplink.name,
                first_round=done + 1,
                position=position,
                runs=of,
            )
        )

    def _save(self, session: Session, files: RunFiles, saved: Checkpoint) -> None:
        """Runs in the saver's thread. A full disk costs the checkpoint, not the run."""
        try:
            files.sync(saved.round)
            path = replace(saved, data_sha256=session.data_sha256).save(self.folder.checkpoints)
            event: events.Event = events.CheckpointSaved(
                time_s=time.time(), run=self.name, round=saved.round, path=str(path)
            )
        except OSError as error:
            self._is_unsaved = True
            saved.let_go()
            text = f"the checkpoint after round {saved.round} could not be written: {error}; the last good one stays"
            event = events.Warned(time_s=time.time(), text=text)
        self._io.call_soon_threadsafe(self._stream.emit, event)

    async def _end(self, session: Session, files: RunFiles, outcome: Outcome) -> Outcome:
        """Write down how it ended. A full disk costs what it costs: the next start goes on from the last checkpoint."""
        files.flush()
        if outcome.reason == "finished" and self.folder.metrics.name in files.lacking():
            text = "the rounds are done, but not all of their lines could be written: with room on the disk, run the "
            text += "same command again: it goes on from the last checkpoint"
            outcome = replace(outcome, reason="stopped", text=text)
        try:
            data_sha256 = await asyncio.to_thread(lambda: session.data_sha256)
            self._write_results(session, outcome, data_sha256)
        except OSError as error:
            self._is_unsaved = True
            self._warn(f"run {self.name}: its results could not be written: {error}; run the same command again")
        return outcome

    def _write_results(self, session: Session, outcome: Outcome, data_sha256: str) -> None:
        tensors = session.problem.named_parameters(outcome.x)
        write_whole(self.folder.model, safetensors.torch.save(tensors, {"format": "pt"}))
        numbers = {k: v for k, v in outcome.metrics.items() if isinstance(v, int) or math.isfinite(v)}
        summary: dict[str, object] = {"reason": outcome.reason, "rounds": outcome.rounds, "metrics": numbers}
        if outcome.text:
            summary["error"] = outcome.text
        summary["data_sha256"] = data_sha256
        self.folder.write_summary(json.loads(json.dumps(summary)))


def folder_of(experiment: Experiment, runs_dir: Path) -> RunFolder:
    """Where the run of this experiment lies, begun or not."""
    label = experiment.label or experiment.algorithm.name.removesuffix(".py")
    return RunFolder.at(runs_dir, experiment.name, run_name(label, experiment.seed, experiment.digest()))


def check_device(experiment: Experiment, options: MasterOptions) -> None:
    """Raise ExperimentError where memories are to lie where clients run, and that is not this process's RAM alone."""
    if experiment.clients.client_memory != "device":
        return
    if options.workers or any(device.type != "cpu" for device in parse_devices(options.devices)):
        raise ExperimentError(
            '"device" keeps memories where clients run, which is possible on the CPU of the master alone; '
            'take "ram", or "disk" where they do not fit',
            path="clients.client_memory",
        )


__all__ = ["OneRun", "check_device", "folder_of"]
