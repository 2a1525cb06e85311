"""Device pools: one thread, one CUDA stream and one replica of the model a slot. All that says "cuda" is here."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from fl_core.errors import InputError
from fl_core.execution.allocator import give_back_memory
from fl_core.intra_op import use_intra_op_threads

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


class DevicePool:
    """Threads that run jobs, each on a slot of its own.

    Args:
        devices: one entry a device.
        threads_per_device: slots on each.
    """

    def __init__(self, devices: Sequence[torch.device], threads_per_device: int) -> None:
        self.devices = tuple(devices)
        self._free = [Slot(device) for device in devices for _ in range(threads_per_device)]
        self.slots = len(self._free)
        self._all = tuple(self._free)
        self._own = threading.local()
        self._threads = ThreadPoolExecutor(
            max(1, self.slots), thread_name_prefix="slot", initializer=self._start_thread
        )

    def submit(self, job: Callable[[Slot], T]) -> Future[T]:
        """Run `job(slot)` on the next free slot."""
        return self._threads.submit(lambda: job(self._own.slot))

    def forget(self, run: str) -> None:
        """Let go of what the slots keep for a run that is over."""
        kept = [slot.replicas.pop(run, None) for slot in self._all]
        if any(kept):
            kept.clear()
            give_back_memory()  # activations of its model

    def close(self) -> None:
        """Wait for the running jobs, drop the queued ones, end the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _start_thread(self) -> None:
        self._own.slot = self._free.pop()
        # Else every backward pass of the process is launched by one autograd thread a device.
        torch.autograd.set_multithreading_enabled(False)


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
