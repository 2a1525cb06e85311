"""Device pools: one thread, one CUDA stream and one replica of the model a slot. All that says "cuda" is here."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

import torch

from fl_core.errors import InputError
from fl_core.execution.allocator import give_back_memory
from fl_core.intra_op import use_intra_op_threads
from fl_core.side_jobs import next_job

T = TypeVar("T")


class Slot:
    """One place to compute: a thread of the pool, on one device.

    Attributes:
        replicas: what the slot keeps for each run (its model), by run; only the slot's thread touches it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.replicas: dict[str, object] = {}
        self._stream: torch.cuda.Stream | None = None

    @contextmanager
    def active(self, intra_op_threads: int = 1, tf32: bool = False) -> Iterator[None]:
        """Compute on the slot's own stream, and leave only when its work is done.

        Args:
            intra_op_threads: torch threads within one operation; the experiment's choice, since it may change rounding.
            tf32: whether products of float32 may be TF32 on a GPU. A switch of the whole process: runs side by side
                must agree on it.
        """
        use_intra_op_threads(intra_op_threads)
        if self.device.type != "cuda":
            yield
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]  # torch's own stub lacks it
        # torch's own default differs between the two.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            yield
            self._stream.synchronize()


class _Job(NamedTuple):
    run: Callable[[Slot], Any]
    future: Future[Any] | None


class DevicePool:
    """Threads that run jobs, each on a slot of its own. They begin with the first job.

    Args:
        devices: one entry a device.
        threads_per_device: slots on each.
    """

    def __init__(self, devices: Sequence[torch.device], threads_per_device: int) -> None:
        self.devices = tuple(devices)
        self._all = tuple(Slot(device) for device in devices for _ in range(threads_per_device))
        self.slots = len(self._all)
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closed = False

    def start(self, job: Callable[[Slot], None]) -> None:
        """Run `job(slot)` on the next free slot, unless the pool is closed before. It must not raise."""
        self._put(_Job(job, None))

    def submit(self, job: Callable[[Slot], T]) -> Future[T]:
        """Run `job(slot)` on the next free slot; what it returns or raises is the future's."""
        future: Future[T] = Future()
        self._put(_Job(job, future))
        return future

    def forget(self, run: str) -> None:
        """Let go of what the slots keep for a run that is over."""
        kept = [slot.replicas.pop(run, None) for slot in self._all]
        if any(kept):
            kept.clear()
            give_back_memory()  # activations of its model

    def close(self) -> None:
        """Wait for the running jobs, drop the queued ones, end the threads."""
        with self._lock:
            self._closed = True
        with suppress(Empty):
            while True:
                job = self._jobs.get_nowait()
                if job is not None and job.future is not None:
                    job.future.cancel()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _put(self, job: _Job) -> None:
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is closed")
            self._jobs.put(job)
            if not self._threads:  # the first of them begins with this job
                for number, slot in enumerate(self._all):
                    self._threads.append(threading.Thread(target=self._serve, args=(slot,), name=f"slot_{number}"))
                    self._threads[-1].start()

    def _serve(self, slot: Slot) -> None:
        use_intra_op_threads()
        # Else every backward pass of the process is launched by one autograd thread a device.
        torch.autograd.set_multithreading_enabled(False)
        while (job := next_job(self._jobs)) is not None:
            if job.future is None:
                job.run(slot)
            elif job.future.set_running_or_notify_cancel():
                _fulfil(job.future, job.run, slot)
            del job  # it holds a round's tensors, and the next may be long in coming


def _fulfil(future: Future[Any], run: Callable[[Slot], Any], slot: Slot) -> None:
    try:
        result = run(slot)
    except BaseException as error:  # a user's code may even leave the interpreter
        future.set_exception(error)
    else:
        future.set_result(result)


def parse_devices(text: str) -> list[torch.device]:
    """ "auto" (all CUDA devices, else the CPU), "cpu", "none", or a list like "cuda:0,cuda:1".

    Raises:
        InputError: a device that does not exist here.
    """
    text = text.strip().lower()
    if text == "none":
        return []
    if text == "auto":
        count = torch.cuda.device_count()
        return [torch.device("cuda", i) for i in range(count)] or [torch.device("cpu")]
    devices = []
    for part in text.split(","):
        try:
            device = torch.device(part.strip())
        except RuntimeError as error:
            raise InputError(
                f"--devices {text}: {part!r} is no device; write auto, cpu, none or cuda:0,cuda:1"
            ) from error
        if device.type not in ("cpu", "cuda"):
            raise InputError(f"--devices {text}: only cpu and cuda devices are supported, not {part!r}")
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise InputError(
                f"--devices {text}: this machine has {torch.cuda.device_count()} CUDA devices, not {part!r}"
            )
        devices.append(torch.device("cuda", device.index or 0) if device.type == "cuda" else torch.device("cpu"))
    return devices


def default_threads(device: torch.device) -> int:
    """Slots on a device where the user names no number: the usable cores of a CPU, four streams on a GPU."""
    if device.type == "cuda":
        return 4
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
