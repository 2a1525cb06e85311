"""Device pools: a slot a thread, one thread an operation, and devices by name."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import CancelledError

import pytest
import torch

from fl_core.errors import InputError
from fl_core.execution.gpu_memory import Room, Seen
from fl_core.execution.pool import DevicePool, Slot, default_threads, parse_devices

CPU = torch.device("cpu")


def test_each_thread_has_a_slot_of_its_own() -> None:
    """Four jobs run at the same time, on four slots."""
    pool = DevicePool([CPU], 4)
    together = threading.Barrier(4)

    def job(slot: Slot) -> tuple[int, int, str]:
        together.wait(30)  # passed only if four run at once
        return id(slot), threading.get_ident(), slot.device.type

    found = [future.result(30) for future in [pool.submit(job) for _ in range(4)]]
    pool.close()
    assert pool.slots == 4
    assert len({slot for slot, _, _ in found}) == len({thread for _, thread, _ in found}) == 4
    assert {kind for _, _, kind in found} == {"cpu"}


def test_a_slot_keeps_what_its_runs_need() -> None:
    """A replica made by one job is there for the next one on the slot, until its run is forgotten."""
    pool = DevicePool([CPU], 1)

    def job(slot: Slot) -> int:
        replica = slot.replicas.setdefault("a", [0])
        assert isinstance(replica, list)
        replica[0] += 1
        slot.replicas.setdefault("b", 1)
        return int(replica[0])

    counts = [pool.submit(job).result(30) for _ in range(3)]
    pool.forget("a")
    counts.append(pool.submit(job).result(30))
    kept = pool.submit(lambda slot: sorted(slot.replicas)).result(30)
    pool.close()
    assert counts == [1, 2, 3, 1]
    assert kept == ["a", "b"]


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_within_an_operation(threads: int) -> None:
    """As many as the experiment says, whatever the rest of the process uses; autograd stays in the slot's thread."""
    pool = DevicePool([CPU], 1)
    seen: list[int] = []

    def job(slot: Slot) -> int:
        x = torch.ones(3, requires_grad=True)
        y = x * 2
        y.register_hook(lambda g: seen.append(threading.get_ident()))
        y.sum().backward()
        seen.append(threading.get_ident())
        with slot.active(threads):
            return torch.get_num_threads()

    assert pool.submit(job).result(30) == threads
    pool.close()
    assert seen[0] == seen[1] != threading.get_ident()
    assert torch.get_num_threads() == 1, "this process's own setting (tests/conftest.py)"


def test_a_job_that_raises_is_its_caller_s() -> None:
    """The error is the future's; the slot works on."""
    pool = DevicePool([CPU], 1)
    failed = pool.submit(lambda slot: 1 // len(slot.replicas))
    assert isinstance(failed.exception(30), ZeroDivisionError)
    assert pool.submit(lambda slot: 7).result(30) == 7
    pool.close()


def test_closing_waits_for_what_runs_and_drops_what_waits() -> None:
    """close() returns when the running job has ended; queued ones are cancelled."""
    pool = DevicePool([CPU], 1)
    started, go = threading.Event(), threading.Event()

    def job(slot: Slot) -> str:
        started.set()
        go.wait(30)
        return "done"

    running, waiting = pool.submit(job), pool.submit(job)
    assert started.wait(30)
    closing = threading.Thread(target=pool.close)
    closing.start()
    with pytest.raises(CancelledError):
        waiting.result(30)
    assert not running.done()
    go.set()
    closing.join(30)
    assert running.result(0) == "done"


def test_jobs_may_do_without_a_future() -> None:
    """They run in turn with the others; one that waits when the pool closes is dropped, and no more are taken."""
    pool = DevicePool([CPU], 1)
    started, go = threading.Event(), threading.Event()
    ran: list[str] = []

    def hold(slot: Slot) -> str:
        started.set()
        go.wait(30)
        return "first"

    pool.start(hold, lambda found: ran.append(str(found)))
    pool.start(lambda slot: "dropped", ran.append)
    last = pool.submit(lambda slot: 7)
    assert started.wait(30)
    closing = threading.Thread(target=pool.close)
    closing.start()
    with pytest.raises(CancelledError):
        last.result(30)
    go.set()
    closing.join(30)
    assert ran == ["first"]
    with pytest.raises(RuntimeError, match="the pool is closed"):
        pool.start(hold, lambda found: ran.append(str(found)))


def test_the_slot_that_was_idle_last_is_served_first() -> None:
    """Jobs one after the other, each brought as soon as the one before is told, all run on one thread."""
    pool = DevicePool([CPU], 3)
    threads: list[int] = []
    done = threading.Event()

    def job(slot: Slot) -> int:
        return threading.get_ident()

    def bring_the_next(found: int | BaseException) -> None:
        assert isinstance(found, int)
        threads.append(found)
        if len(threads) < 50:
            pool.start(job, bring_the_next)
        else:
            done.set()

    together = threading.Barrier(3)
    ended = [pool.submit(lambda slot: together.wait(30)) for _ in range(3)]
    for future in ended:
        future.result(30)
    pool.start(job, bring_the_next)
    assert done.wait(30)
    pool.close()
    assert len(set(threads)) == 1


def test_devices_are_busy_alike() -> None:
    """Of several devices the one with the fewest jobs is served first, whichever was idle last."""
    pool = DevicePool([CPU, torch.device("meta")], 2)
    go = threading.Event()
    together = threading.Barrier(3)

    def job(slot: Slot) -> str:
        together.wait(30)
        go.wait(30)
        return slot.device.type

    for _ in range(3):
        two = [pool.submit(job), pool.submit(job)]
        together.wait(30)
        go.set()
        assert {future.result(30) for future in two} == {"cpu", "meta"}
        go.clear()
    pool.close()


def test_a_pool_that_nobody_closes_does_not_keep_the_program() -> None:
    """A script that forgets it ends, after what runs, with the exit code that it would have."""
    script = (
        "import torch\nfrom fl_core.execution.pool import DevicePool\n"
        "pool = DevicePool([torch.device('cpu')], 2)\n"
        "print(pool.submit(lambda slot: 7).result(30))\n"
        "pool.submit(lambda slot: print(int(sum(torch.ones(9) @ torch.ones(9) for _ in range(9999)))))\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.split() == ["7", str(9 * 9999)]
    assert ended.stderr == ""


def test_a_slot_on_the_cpu_needs_no_stream() -> None:
    """active() is a block like any other."""
    with Slot(CPU).active():
        assert torch.ones(1).item() == 1.0


@pytest.mark.parametrize(
    ("text", "devices"),
    [("cpu", ["cpu"]), (" CPU ", ["cpu"]), ("none", []), ("cpu,cpu", ["cpu", "cpu"]), ("cpu:3", ["cpu"])],
)
def test_devices_by_name(text: str, devices: list[str]) -> None:
    """The CPU is one device, whatever number is put behind it; "none" is no device."""
    assert [str(device) for device in parse_devices(text)] == devices


def test_auto_is_what_there_is() -> None:
    """All CUDA devices, else the CPU."""
    count = torch.cuda.device_count()
    assert parse_devices("auto") == ([torch.device("cuda", i) for i in range(count)] or [CPU])
    if count:
        assert parse_devices("cuda") == [torch.device("cuda", 0)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpu", "--devices gpu: 'gpu' is no device; write auto, cpu, none or cuda:0,cuda:1"),
        ("", "--devices : '' is no device"),
        ("cpu,", "--devices cpu,: '' is no device"),
        ("cuda:x", "--devices cuda:x: 'cuda:x' is no device"),
        ("meta", "--devices meta: only cpu and cuda devices are supported, not 'meta'"),
        ("cpu,cuda:99", f"this machine has {torch.cuda.device_count()} CUDA devices, not 'cuda:99'"),
        ("cpu,auto", "'auto' is no device"),
    ],
)
def test_devices_that_are_not_there(text: str, said: str) -> None:
    """One line that repeats what was written and says what to write."""
    with pytest.raises(InputError) as caught:
        parse_devices(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_threads_where_none_are_named() -> None:
    """The usable cores of the CPU; a few streams on a GPU."""
    assert default_threads(CPU) >= 1
    assert default_threads(torch.device("cuda", 0)) == 4


def test_a_slot_more_for_what_fits() -> None:
    """Where memory decides, the first task computes alone; then two may, and two do."""
    pool = DevicePool([CPU], 4, rooms={CPU: Room(2, lambda: Seen(free=100, held=10, used=5))})
    under_way, most = [0], [0]
    together, lock = threading.Barrier(2), threading.Lock()

    def job(number: int) -> None:
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        if number > 0:
            together.wait(30)  # passed only if two run at once
        with lock:
            under_way[0] -= 1

    first = pool.submit(lambda slot: job(0))
    others = [pool.submit(lambda slot, number=number: job(number)) for number in range(1, 7)]  # type: ignore[misc]
    first.result(30)
    for each in others:
        each.result(30)
    pool.close()
    assert most[0] == 2


def test_a_task_without_memory_runs_again_beside_fewer() -> None:
    """It waits for the one that has the memory, and its caller sees its result alone; a lone one's error is shown."""
    room = Room(2, lambda: Seen(free=100, held=10, used=5))
    pool = DevicePool([CPU], 2, rooms={CPU: room})
    pool.submit(lambda slot: None).result(30)
    began, has_failed = threading.Event(), threading.Event()
    tries: list[Slot] = []

    def greedy(slot: Slot) -> str:
        began.set()
        assert has_failed.wait(30)
        return "greedy"

    def hungry(slot: Slot) -> str:
        tries.append(slot)
        if not has_failed.is_set():
            has_failed.set()
            raise torch.OutOfMemoryError("no memory is left")
        return "hungry"

    first = pool.submit(greedy)
    assert began.wait(30)
    second = pool.submit(hungry)
    assert (first.result(30), second.result(30)) == ("greedy", "hungry")
    assert (len(tries), room.slots) == (2, 1)
    has_failed.clear()
    assert isinstance(pool.submit(hungry).exception(30), torch.OutOfMemoryError)
    pool.close()


def opened_pool() -> DevicePool:
    """Two slots of a device whose memory decides, both of them open."""
    pool = DevicePool([CPU], 2, rooms={CPU: Room(2, lambda: Seen(free=100, held=10, used=5))})
    pool.submit(lambda slot: None).result(30)
    return pool


def test_tasks_that_shared_a_device_all_run_again() -> None:
    """Both find no memory at once: whoever is heard last looks alone by then, and was not."""
    pool = opened_pool()
    both = threading.Barrier(2)
    tries = Counter[str]()

    def hungry(name: str) -> str:
        tries[name] += 1
        if tries[name] == 1:
            both.wait(30)
            raise torch.OutOfMemoryError("no memory is left")
        return name

    futures = [pool.submit(lambda slot, name=name: hungry(name)) for name in "ab"]  # type: ignore[misc]
    assert [future.result(30) for future in futures] == ["a", "b"]
    assert tries == {"a": 2, "b": 2}
    pool.close()


def test_a_device_that_answers_no_more_costs_no_thread() -> None:
    """After some errors a GPU refuses every call: the task's own error is what is told, and the slot lives on."""

    def look() -> Seen:
        raise RuntimeError("CUDA error: device-side assert triggered")

    pool = DevicePool([CPU], 2, rooms={CPU: Room(2, look)})
    assert pool.submit(lambda slot: 7).result(30) == 7
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda slot: 1 // 0).result(30)
    assert pool.submit(lambda slot: 7).result(30) == 7
    pool.close()


def test_a_task_that_was_to_run_again_is_told_when_the_pool_closes() -> None:
    """It had begun, so it cannot be cancelled; whoever waits for it must not wait for ever."""
    pool = opened_pool()
    began, failed, go_on = threading.Event(), threading.Event(), threading.Event()

    def greedy(slot: Slot) -> None:
        began.set()
        go_on.wait(30)

    def hungry(slot: Slot) -> None:
        failed.set()
        raise torch.OutOfMemoryError("no memory is left")

    first = pool.submit(greedy)
    assert began.wait(30)
    second = pool.submit(hungry)
    assert failed.wait(30)
    closing = threading.Thread(target=pool.close)
    closing.start()
    assert isinstance(second.exception(30), RuntimeError)
    go_on.set()
    first.result(30)
    closing.join(30)
