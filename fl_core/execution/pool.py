"""Device pools: one thread, one CUDA stream and one replica of the model a slot."""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

import torch

from fl_core.errors import InputError
from fl_core.execution.allocator import give_back_memory
from fl_core.execution.gpu_memory import Room, lacks_memory, room_of
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
        torch.backends.cudnn.deterministic = True  # else a convolution's gradient may be added up in any order
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            try:
                yield
            finally:  # after an error too: what its kernels still read belongs to others
                self._stream.synchronize()


class _Job(NamedTuple):
    run: Callable[[Slot], Any]
    then: Callable[[Any], None]
    future: Future[Any] | None = None


class DevicePool:
    """Threads that run jobs, each on a slot of its own. They begin with the first job.

    Of the idle slots on the least busy device the one that became idle last is served first: its thread finds in its
    caches what it left there, and where one slot is enough the others' replicas are never made. Of a GPU's slots as
    many compute at a time as its memory has `Room` for; a task that finds none left waits and runs again, beside fewer.

    Args:
        devices: one entry a device.
        threads_per_device: slots on each.
        rooms: of the devices whose memory decides; by default of every GPU.
    """

    def __init__(
        self,
        devices: Sequence[torch.device],
        threads_per_device: int,
        rooms: Mapping[torch.device, Room] | None = None,
    ) -> None:
        self.devices = tuple(devices)
        self._all = tuple(Slot(device) for device in devices for _ in range(threads_per_device))
        self.slots = len(self._all)
        self._jobs: dict[Slot, SimpleQueue[_Job | None]] = {slot: SimpleQueue() for slot in self._all}
        self._idle = list(reversed(self._all))  # the last one is served first
        self._busy = Counter[torch.device]()
        if rooms is None:
            rooms = {gpu: room_of(gpu, threads_per_device) for gpu in devices if gpu.type == "cuda"}
        self._rooms = rooms
        self._shared: set[Slot] = set()  # where a job runs that has not had the device to itself all the time
        self._waiting: deque[_Job] = deque()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closed = False

    def start(self, job: Callable[[Slot], T], then: Callable[[T | BaseException], None]) -> None:
        """Run `job(slot)` on an idle slot or the next free one, unless the pool is closed before.

        Args:
            then: is given what the job has returned or raised, in the slot's thread, when the slot is free for the next
                job: who brings that at once is served by the same thread. It must not raise.
        """
        self._put(_Job(job, then))

    def submit(self, job: Callable[[Slot], T]) -> Future[T]:
        """Run `job(slot)` on an idle slot or the next free one; what it returns or raises is the future's."""
        future: Future[T] = Future()

        def run(slot: Slot) -> T | None:
            return job(slot) if future.running() or future.set_running_or_notify_cancel() else None

        def settle(found: Any) -> None:
            if isinstance(found, BaseException):
                future.set_exception(found)
            elif not future.cancelled():
                future.set_result(found)

        self._put(_Job(run, settle, future))
        return future

    def forget(self, run: str) -> None:
        """Let go of what the slots keep for a run that is over."""
        kept = [slot.replicas.pop(run, None) for slot in self._all]
        if any(kept):
            kept.clear()
            give_back_memory()  # activations of its model
        if self._rooms:
            with self._lock:
                for room in self._rooms.values():
                    room.forget()
            with suppress(RuntimeError):  # after an error that a GPU does not recover from
                torch.cuda.empty_cache()  # other processes may want it

    def close(self) -> None:
        """Wait for the running jobs, drop those that wait for a slot, end the threads."""
        with self._lock:
            self._closed = True
            dropped = list(self._waiting)
            self._waiting.clear()
        for job in dropped:
            if job.future is not None and not job.future.cancel():  # it has run, and was to run again
                job.future.set_exception(RuntimeError("the pool is closed"))
        if self._threads:
            for jobs in self._jobs.values():
                jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _put(self, job: _Job) -> None:
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is closed")
            if not self._threads:
                for number, slot in enumerate(self._all):
                    self._threads.append(threading.Thread(target=self._serve, args=(slot,), name=f"slot_{number}"))
                    self._threads[-1].start()
            idle = self._idle if not self._rooms else self._with_room()
            if not idle:
                self._waiting.append(job)
                return
            self._begin(job, min(reversed(idle), key=lambda slot: self._busy[slot.device]))

    def _begin(self, job: _Job, slot: Slot) -> None:
        """Give the job to an idle slot, under the lock."""
        self._idle.remove(slot)
        self._busy[slot.device] += 1
        self._note_sharing(slot.device)
        self._jobs[slot].put(job)

    def _note_sharing(self, device: torch.device) -> None:
        if self._rooms and self._busy[device] > 1:
            self._shared |= {slot for slot in self._all if slot.device == device} - set(self._idle)

    def _freed(self, slot: Slot) -> _Job | None:
        """The slot's next job, if one waits; else it is idle."""
        with self._lock:
            room = self._rooms.get(slot.device) if self._rooms else None
            if self._waiting and (room is None or self._busy[slot.device] <= room.slots):
                self._note_sharing(slot.device)
                return self._waiting.popleft()
            self._busy[slot.device] -= 1
            self._idle.append(slot)
            return None

    def _with_room(self) -> list[Slot]:
        """Idle slots that may compute, under the lock."""
        rooms, busy = self._rooms, self._busy
        return [s for s in self._idle if s.device not in rooms or busy[s.device] < rooms[s.device].slots]

    def _runs_again(self, slot: Slot, job: _Job, found: Any) -> bool:
        """A job has ended on a device whose memory decides: whether it found none and waits for its turn again.

        If there is room for one more slot, a job that waits is begun there.
        """
        room = self._rooms.get(slot.device)
        if room is None:
            return False
        seen = None
        if room.may_grow and not isinstance(found, BaseException):
            with suppress(RuntimeError):  # of a GPU that answers no more
                seen = room.look()
        with self._lock:
            was_shared, busy = slot in self._shared, self._busy[slot.device]
            self._shared.discard(slot)
            if lacks_memory(found):
                room.lacked(busy)
                again = was_shared and not self._closed
                if again:
                    self._waiting.appendleft(job)
                return again
            if seen is not None:
                room.ended(busy, seen)
            while self._waiting and (idle := self._with_room()):
                self._begin(self._waiting.popleft(), idle[-1])
        return False

    def _serve(self, slot: Slot) -> None:
        use_intra_op_threads()
        # Else every backward pass of the process is launched by one autograd thread a device.
        torch.autograd.set_multithreading_enabled(False)
        job = next_job(self._jobs[slot])
        while job is not None:
            found = _run(job.run, slot)
            again = bool(self._rooms) and self._runs_again(slot, job, found)
            following = self._freed(slot)
            if not again:
                job.then(found)
            del job, found  # they hold a round's tensors, and the next job may be long in coming
            job = following or next_job(self._jobs[slot])
            del following


def _run(job: Callable[[Slot], T], slot: Slot) -> T | BaseException:
    try:
        return job(slot)
    except BaseException as error:  # a user's code may even leave the interpreter
        return error


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
