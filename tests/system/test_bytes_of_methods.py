"""Bits counted are bytes sent: `bits_up` of every method x compressor is 8 x the payload bytes in the Result frames.

The frames are recorded between master and workers by a proxy that changes nothing, and parsed by the protocol's own
reader; the count is made from the buffers that were received, not from anything the master computed.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from protocol.buffers import unpack
from protocol.fields import Buffer
from protocol.frames import FrameReader, Header
from protocol.headers import decode_handshake, decode_header
from protocol.messages import Challenge, Message, Result, Welcome
from tests.conftest import Daemons, Finished, Process
from tests.system.recording_proxy import RecordingProxy

pytestmark = [pytest.mark.net, pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("bytes")]

D, K, N, S, ROUNDS, WIDTH = 12, 5, 5, 3, 3, 8
"""Parameters, Rand-K's K, clients, participants, rounds, and bytes of a float64."""

UNBIASED: dict[str, dict[str, Any]] = {
    "identity": {"name": "identity"},
    "randk": {"name": "randk", "k": K},
    "natural": {"name": "natural"},
    "qsgd": {"name": "qsgd", "s": 4},
    "compose": {"name": "compose", "of": [{"name": "natural"}, {"name": "randk", "k": K}]},
}
LAZY = {"lazy": {"name": "lazy", "p": 0.5}}  # of which some payloads are empty
ALL = UNBIASED | {"topk": {"name": "topk", "k": K}}
METHODS: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] = {
    **{name: ({"name": name}, ALL) for name in ("fedavg", "fedprox", "fednova", "ef14", "ef21-pp")},
    "dcgd": ({"name": "dcgd"}, ALL | LAZY),
    "ef21": ({"name": "ef21", "g0": "compressed"}, ALL),
    **{name: ({"name": name}, UNBIASED) for name in ("diana", "frecon", "pp-marina")},
    "marina": ({"name": "marina"}, UNBIASED | LAZY),
    "cofig": ({"name": "cofig", "shift_init": "gradient"}, UNBIASED),
    "scaffold": ({"name": "scaffold", "shift_init": "gradient"}, UNBIASED),
    "scaffold one": ({"name": "scaffold", "option": 1}, {"randk": UNBIASED["randk"]}),
    "gradskip": ({"name": "gradskip", "p": 0.5}, {"identity": UNBIASED["identity"]}),
}


def sweep(pairs: list[tuple[str, str]], name: str = "bytes") -> dict[str, Any]:
    """One experiment file with a run for each (method, compressor)."""
    runs = []
    for method, operator in pairs:
        algorithm, operators = METHODS[method]
        run = {"label": f"{method} {operator}", "algorithm": algorithm, "uplink": operators[operator]}
        runs.append(run | ({"clients": {"total": N, "per_round": N}} if method == "gradskip" else {}))
    return {
        "name": name,
        "rounds": ROUNDS,
        "seed": 5,
        "data": {"name": "quadratic", "d": D, "L": 1.0, "mu": 0.2, "samples_per_client": 4, "spectrum": "f"},
        "model": {"name": "linear", "loss": "mse", "dtype": "float64"},
        "clients": {"total": N, "per_round": S},
        "local": {"steps": 1, "gradient": "full", "optimizer": {"name": "sgd", "lr": 0.1}},
        "execution": {"cohort": 2},
        "evaluate": {"metrics": []},
        "run": runs,
    }


def received(
    stream: bytes, opening: tuple[type[Message], type[Message]] = (Challenge, Welcome)
) -> Iterator[tuple[Message, list[np.ndarray]]]:
    """The messages of a worker's stream (or, by what it opens with, of a master's), with their buffers as they came."""
    reader = FrameReader(1 << 20, 1 << 30)
    pending: tuple[Message, list[Buffer], np.ndarray] | None = None
    at = 0
    while at < len(stream):
        view = reader.buffer()
        taken = min(len(view), len(stream) - at)
        view[:taken] = stream[at : at + taken]
        at += taken
        for frame in reader.frames(taken):
            if not isinstance(frame, Header):
                assert pending is not None
                message, buffers, body = pending
                yield message, unpack(buffers, body)
            elif frame.seq < 2:
                assert type(decode_handshake(frame.header)) is opening[frame.seq]
            else:
                message, buffers = decode_header(frame.header)
                if not frame.body_bytes:
                    yield message, unpack(buffers, np.empty(0, np.uint8))
                    continue
                pending = message, buffers, np.empty(frame.body_bytes, np.uint8)
                reader.expect_body(frame.seq, pending[2])
    assert not reader.mid_frame


def payload_bytes(message: Result, buffers: list[np.ndarray]) -> int:
    """Bytes of the replies among the buffers of a Result: coded fields, then dense ones. Memories are no messages.

    Where the worker has added up what the cohort's clients sent whole, each of them sent as much as the sum is long.
    """
    assert len(buffers) == len(message.fields) + len(message.tensors)
    coded = sum(buffer.nbytes for buffer in buffers[: len(message.fields)])
    rest = {tensor.name: buffer for tensor, buffer in zip(message.tensors, buffers[len(message.fields) :], strict=True)}
    dense = sum(buffer.nbytes for name, buffer in rest.items() if name.startswith("reply/"))
    assert all(summed.dtype == "float64" for summed in message.sums)  # whose sums are as wide as what was added
    sums = sum(rest[f"sum/{summed.weightings[0]}/{summed.name}"].nbytes for summed in message.sums)
    return coded + dense + len(message.clients) * sums


@dataclass
class Record:
    """What crossed the wire in a sweep: (run, round) -> payload bytes; and the folders the master left."""

    sizes: Counter[tuple[str, int]] = field(default_factory=Counter)
    results: list[tuple[str, int, int]] = field(default_factory=list)
    runs: dict[str, Finished] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)

    def take(self, stream: bytes) -> None:
        """Count the Results of a stream, each (run, round, task) once."""
        for message, buffers in received(stream):
            if isinstance(message, Result):
                key = (message.run, message.round, message.task)
                if key not in self.results:
                    self.results.append(key)
                    self.sizes[message.run, message.round] += payload_bytes(message, buffers)

    def counted(self, run: Finished) -> list[int]:
        """Cumulative bits after each round, by the frames."""
        total, bits = 0, []
        for round in range(1, ROUNDS + 1):
            total += 8 * self.sizes[run.path.name, round]
            bits.append(total)
        return bits


def said(run: Finished) -> list[int]:
    """Cumulative bits after each round, by metrics.jsonl."""
    return [line["bits_up"] for line in run.metrics if line["round"] > 0]


@dataclass
class Bench:
    """Two workers behind proxies."""

    daemons: Daemons
    workers: list[Process]
    folder: Path

    def run(self, experiment: dict[str, Any], command: list[str] | None = None) -> Record:
        """A sweep on both workers alone, recorded; by flmaster, or by a command that takes the same options."""
        proxies = [RecordingProxy(worker.port) for worker in self.workers]
        addresses = ",".join(f"127.0.0.1:{proxy.port}" for proxy in proxies)
        file, runs = self.folder / f"{experiment['name']}.toml", self.folder / f"{experiment['name']}-runs"
        file.write_text(tomli_w.dumps(experiment))
        options = ["--runs-dir", str(runs), "--devices", "none", "--workers", addresses]
        if command is None:
            master = self.daemons.master(file, *options, cwd=self.folder)
        else:
            master = self.daemons.start([*command, "--no-dashboard", *options, str(file)], self.folder)
        try:
            assert master.ended(150.0) == 0, master.said[-3000:]
            folders = [path.parent for path in runs.glob("*/*/experiment.toml")]
            record = Record(runs=Finished.all_in(runs), folders=folders)
            for proxy in proxies:
                for stream in proxy.settled():
                    record.take(stream)
            return record
        finally:
            for proxy in proxies:
                proxy.close()


@pytest.fixture(scope="module")
def bench(module_daemons: Daemons, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Started once for all sweeps."""
    folder = tmp_path_factory.mktemp("bytes")
    workers = [module_daemons.worker(folder) for _ in range(2)]
    module_daemons.listening(*workers)
    return Bench(module_daemons, workers, folder)


@pytest.fixture(scope="module")
def record(bench: Bench) -> Record:
    """Every method with every compressor it takes, three rounds each."""
    return bench.run(
        sweep([(method, operator) for method, (_, operators) in METHODS.items() for operator in operators])
    )


@pytest.mark.parametrize("method", METHODS)
def test_bits_up_are_the_bytes_received(record: Record, method: str) -> None:
    """After every round, with every compressor, `bits_up` is 8 x the payload bytes of the Results so far."""
    for operator in METHODS[method][1]:
        run = record.runs[f"{method} {operator}".replace(" ", "-")]
        assert said(run) == record.counted(run), operator
        assert said(run)[-1] > 0, operator


def test_every_task_came_back_over_the_wire(record: Record) -> None:
    """The recording is whole: as many Results as the master says tasks were finished, all on the two workers."""
    finished = sum(len(run.events("TaskFinished")) for run in record.runs.values())
    assert len(record.results) == finished > 3 * len(record.runs)


@pytest.mark.parametrize(
    ("run", "bits"),
    [
        ("dcgd-identity", [S * D] * 3),
        ("dcgd-randk", [S * K] * 3),
        ("ef21-randk", [S * K] * 3),
        ("cofig-randk", [N * D, S * K, S * K]),  # round 1 brings ∇f_i(x0) from all clients
        ("ef21-pp-randk", [N * D, S * K, S * K]),
        ("scaffold-one-randk", [2 * S * K] * 3),
        ("frecon-randk", [N * D, 2 * S * K, 2 * S * K]),
        ("fednova-randk", [S * K + S] * 3),  # and a_i, one number
        ("gradskip-identity", [N * D] * 3),
    ],
)
def test_the_frames_hold_what_the_sheet_says(record: Record, run: str, bits: list[int]) -> None:
    """Floats a round, by hand: 64 bits each."""
    assert record.counted(record.runs[run]) == [64 * int(total) for total in np.cumsum(bits)]


# --- the check tells a wrong count --------------------------------------------------------------------------------

MISCOUNTS = {
    5: "8 * sum(len(f.sizes) * 8 * 12 for f in self.coded.values())",  # floats, not bytes
    6: "8 * sum(sum(f.sizes) for f in self.coded.values())",  # not what is sent whole
    7: "BITS.fget(self) + 8 * sum(t.nbytes for t in self.memory.values())",  # memories too
    8: "BITS.fget(self) // len(self.clients)",  # one client a cohort
}
"""By the seed of the run that is counted so."""
PATCHED = """
import fl_core.execution.cohort as cohort, master.one_run as one_run
from master.cli import main

BITS, RUN, FORMULAS = cohort.CohortResult.bits, one_run.OneRun.execute, {formulas!r}

async def execute(self, *arguments):
    formula = eval("lambda self: " + FORMULAS.get(self._experiment.seed, "BITS.fget(self)"), {{"BITS": BITS}})
    cohort.CohortResult.bits = property(formula)
    return await RUN(self, *arguments)

one_run.OneRun.execute = execute
main()
"""


def test_a_wrong_count_is_told(bench: Bench) -> None:
    """A master that counts otherwise fails the comparison, for a method with coded and dense fields and memories."""
    experiment = sweep([("ef21-pp", "randk")], "wrong") | {"sweep": {"seed": [4, *MISCOUNTS]}}
    wrong = bench.run(experiment, [sys.executable, "-c", PATCHED.format(formulas=MISCOUNTS)])
    runs = {int(path.name.split("-s")[1].split("-")[0]): Finished(path) for path in wrong.folders}
    assert len(runs) == 5
    for seed, run in runs.items():
        assert len(said(run)) == ROUNDS
        assert (said(run) == wrong.counted(run)) is (seed == 4), seed


def test_a_lost_result_is_told(record: Record) -> None:
    """A recording that misses one Result does not add up, whichever run it is of."""
    for run in record.runs.values():
        sizes = Counter(record.sizes)
        last = next(size for (name, round), size in sizes.items() if (name, round) == (run.path.name, ROUNDS))
        if last:
            sizes[run.path.name, ROUNDS] -= 1
            assert said(run) != Record(sizes).counted(run)
