"""Whole runs at the edge: over TLS, with a worker named twice, and under attack; and where a secret must not be."""

from __future__ import annotations

import base64
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from protocol.tls import master_tls
from tests.chaos.conftest import Undisturbed
from tests.conftest import Daemons, Finished, Process
from tests.protocol.certificates import Made, made_by_keygen
from tests.system.conftest import MasterHere

pytestmark = [pytest.mark.net, pytest.mark.chaos, pytest.mark.timeout(240)]

Make = Callable[[], MasterHere]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Secret, certificate and key of all daemons here."""
    return made_by_keygen(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def guarded(
    module_daemons: Daemons, made: Made, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], list[Process]]:
    """So many workers with the secret and TLS, each of which must outlive its tests."""
    folder = tmp_path_factory.mktemp("elsewhere")
    tls = ("--tls-cert", str(made.certificate), "--tls-key", str(made.key))
    started: list[Process] = []

    def workers(count: int) -> list[Process]:
        new = [
            module_daemons.worker(folder, "--secret-file", str(made.secret), *tls, "--log-level", "debug")
            for _ in range(count - len(started))
        ]
        module_daemons.listening(*new)
        started.extend(new)
        return started[:count]

    return workers


def shapes(made: Made) -> list[bytes]:
    """The secret and the key in every form somebody might write them down in."""
    raw = bytes.fromhex(made.secret.read_text())
    key = "".join(made.key.read_text().splitlines()[1:-1])
    words = (raw.hex(), raw.hex().upper(), base64.b64encode(raw).decode(), raw.hex(" "), raw.hex(":"), str(raw)[2:-1])
    return [raw, base64.b64decode(key), *(word.encode() for word in (*words, key[:40]))]


def where_it_is(forms: list[bytes], texts: Iterator[tuple[str, bytes]]) -> list[str]:
    """The names of the texts that hold one of these."""
    return [name for name, text in texts if any(form in text for form in forms)]


def files_below(*folders: Path) -> Iterator[tuple[str, bytes]]:
    """Every file's content."""
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                with suppress(FileNotFoundError):  # a temporary one has just been given its name
                    yield str(path), path.read_bytes()


def processes() -> Iterator[tuple[str, bytes]]:
    """What `ps e` shows of every process: command line and environment."""
    for path in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                yield f"{path}/{name}", (path / name).read_bytes()
            except OSError:  # it is gone, or not ours
                continue


def test_a_run_over_tls_gives_the_same_bytes_and_tells_no_secret(
    guarded: Callable[[int], list[Process]], daemons: Daemons, made: Made, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """By real commands, a spawned worker too: no command line, environment, log or file holds the secret or key."""
    workers, runs = guarded(2), tmp_path / "runs"
    options = ("--workers", ",".join(worker.address for worker in workers), "--spawn", "1", "--devices", "none")
    guard = ("--secret-file", str(made.secret), "--tls-ca", str(made.certificate))
    logs = ("--runs-dir", str(runs), "--log-file", str(tmp_path / "master.log"))
    master = daemons.master(undisturbed.folder / "chaos.toml", *options, *guard, *logs, cwd=tmp_path)

    def is_under_way() -> bool:
        return any("TaskFinished" in text.decode(errors="replace") for _, text in files_below(runs))

    forms = shapes(made)
    assert where_it_is(forms, iter([("itself", made.secret.read_bytes()), ("key", made.key.read_bytes())]))
    master.until(is_under_way, "its first task")
    assert where_it_is(forms, processes()) == []
    assert master.ended() == 0
    (run,) = Finished.all_in(runs).values()
    undisturbed.must_be(run)
    assert {worker.address for worker in workers} < {event["executor"] for event in run.events("TaskFinished")}
    assert where_it_is(forms, files_below(tmp_path, workers[0].out.parent, master.out.parent)) == []


async def test_a_worker_that_is_named_twice_is_used_once(
    guarded: Callable[[int], list[Process]], made: Made, undisturbed: Undisturbed, master: Make
) -> None:
    """localhost and 127.0.0.1 are the same process: a warning says so, the run is what it would be."""
    (worker,) = guarded(1)
    run = master().start(
        "",
        workers=(worker.address, f"localhost:{worker.port}"),
        secret=bytes.fromhex(made.secret.read_text()),
        tls=master_tls([made.fingerprint], None),
    )
    assert await run.ended() == 0
    undisturbed.must_be(run.run)
    executors = {event["executor"] for event in run.run.events("TaskFinished")}
    assert len(executors) == 1
    warned = [line for line in run.out.getvalue().splitlines() if line.startswith("warning: ")]
    assert len(warned) >= 1
    assert all("under another name" in line or "serves another master" in line for line in warned)


async def test_the_wrong_certificate_is_a_warning_and_no_worker(
    guarded: Callable[[int], list[Process]], made: Made, master: Make, tmp_path: Path
) -> None:
    """The master says which fingerprint it met, tries on, and runs nothing there; without TLS it says that too."""
    (worker,) = guarded(1)
    secret = bytes.fromhex(made.secret.read_text())
    for tls, says in ((master_tls(["ab" * 32], None), made.fingerprint), (None, "--tls-cert")):
        stranger = master().start("", workers=(worker.address,), secret=secret, tls=tls)
        await stranger.until(stranger.has_warned, "a warning")
        await stranger.until_event("WaitingForWorkers")
        assert await stranger.stop() == 143
        assert says in stranger.out.getvalue()


@pytest.mark.soak
async def test_four_workers_keep_nine_tenths_of_their_throughput_under_attack(
    guarded: Callable[[int], list[Process]], made: Made, master: Make, tmp_path: Path
) -> None:
    """200 slow-loris and every kind of hostile input, one after the other, against all four: rounds take as long."""
    workers = guarded(4)
    took: dict[bool, list[float]] = {False: [], True: []}
    for attacked in (False, True, False, True):
        ports = [str(worker.port) for worker in workers]
        attack = subprocess.Popen([sys.executable, "-m", "tests.chaos.attacker", *ports]) if attacked else None
        try:
            run = master().start(
                "",
                f"rounds={20}",
                workers=tuple(worker.address for worker in workers),
                secret=bytes.fromhex(made.secret.read_text()),
                tls=master_tls([made.fingerprint], None),
            )
            assert await run.ended() == 0
            if attack is not None:
                assert attack.poll() is None, "the attacker gave up"
        finally:
            if attack is not None:
                attack.kill()
                attack.wait()
        took[attacked] += [line["round_s"] for line in run.run.metrics[3:]]
    calm, under_attack = statistics.median(took[False]), statistics.median(took[True])
    print(f"a round: {calm:.4f} s, under attack {under_attack:.4f} s: {calm / under_attack:.3f} of the throughput")
    assert calm / under_attack >= 0.9
