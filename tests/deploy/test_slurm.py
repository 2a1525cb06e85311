"""A Slurm of one node, on loopback: the batch file and `flctl launch --on slurm`, each disturbed in the middle."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Daemons, Finished, Process, until
from tests.deploy.conftest import BIN, EXPERIMENT, ROOT, ROUNDS, Launched, processes_with, tool

pytestmark = [pytest.mark.net, pytest.mark.chaos, pytest.mark.soak, pytest.mark.timeout(300)]

CONF = """
ClusterName=flspan
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
KillWait=5
ReturnToService=2
PropagateResourceLimits=NONE
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE
"""


@dataclass
class Slurm:
    """Commands of the test's own cluster."""

    env: dict[str, str]
    folder: Path

    def call(self, *words: str) -> str:
        """What a command of Slurm prints."""
        done = subprocess.run(words, env={**os.environ, **self.env}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """RUNNING, PENDING, COMPLETED, …"""
        words = self.call("scontrol", "show", "job", job).split()
        return next(word.partition("=")[2] for word in words if word.startswith("JobState="))

    def hurry(self, job: str) -> None:
        """Wait until it is back in the queue, and let it begin: Slurm would keep it waiting for two minutes."""
        until(lambda: self.state(job) == "PENDING", "the job in the queue")
        self.call("scontrol", "update", f"JobId={job}", "StartTime=now")

    def is_completed(self, job: str) -> bool:
        """Whether it is; fails the test when it can be so no more."""
        state = self.state(job)
        assert state not in ("FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT"), state
        return state == "COMPLETED"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


@pytest.fixture(scope="module")
def slurm(module_daemons: Daemons, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """munged, slurmctld and slurmd of this user; they end with the tests."""
    programs = [tool(name) for name in ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol", "scancel")]
    if os.geteuid() != 0:
        pytest.skip("slurmd starts jobs as their owner, so it must be root")
    host = socket.gethostname().partition(".")[0]
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    cpus = os.cpu_count()
    (folder / "slurm.conf").write_text(
        CONF.format(host=host, folder=folder, user="root", ports=_free_ports(2), cpus=cpus)
    )
    (folder / "cgroup.conf").write_text("CgroupPlugin=autodetect\n")
    (folder / "munge.key").write_bytes(os.urandom(64))
    (folder / "munge.key").chmod(0o600)
    env = {"SLURM_CONF": str(folder / "slurm.conf"), "FLSPAN_BIN": str(BIN)}
    files = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "m.pid", "seed-file": "m.seed"}
    munge = [f"--{name}={folder / file}" for name, file in files.items()]
    munged = module_daemons.start([programs[0], "-F", "--force", *munge, f"--log-file={folder / 'm.log'}"], folder)
    munged.until((folder / "munge.socket").exists, "munged")
    daemons = [munged, *(module_daemons.start([program, "-D"], folder, env) for program in programs[1:3])]
    cluster = Slurm(env, folder)
    until(lambda: "idle" in _quietly(cluster, "sinfo", "--noheader", "--format=%T"), "a node of Slurm")
    yield cluster
    _end(cluster, daemons)


def _quietly(cluster: Slurm, *words: str) -> str:
    return subprocess.run(words, env={**os.environ, **cluster.env}, capture_output=True, text=True, check=False).stdout


def _end(cluster: Slurm, daemons: list[Process]) -> None:
    _quietly(cluster, "scancel", "--user=root", "--signal=KILL")
    for process in reversed(daemons):
        process.signal(signal.SIGTERM)
        process.ended()
    for pid in processes_with(str(cluster.folder)):
        os.kill(pid, signal.SIGKILL)


def _submitted(slurm: Slurm, folder: Path, *options: str) -> str:
    words = ["--parsable", "--chdir", str(folder), f"--output={folder}/out.txt", "--cpus-per-task=1", *options]
    script = str(ROOT / "deploy" / "slurm" / "flspan.sbatch")
    return slurm.call("sbatch", *words, script, *ROUNDS, "--runs-dir", str(folder / "runs"), str(EXPERIMENT))


def test_a_job_that_is_requeued_goes_on_where_it_was(slurm: Slurm, tmp_path: Path, undisturbed: str) -> None:
    """The batch file runs workers and master; requeued in the middle it resumes, and ends with the same bytes."""
    runs = tmp_path / "runs"
    job = _submitted(slurm, tmp_path)
    output = tmp_path / "out.txt"
    until(lambda: output.exists() and "\nround 7/" in output.read_text(), "round 7 of the job")
    (run,) = Finished.all_in(runs).values()
    until(lambda: run.events("CheckpointSaved"), "a checkpoint")
    slurm.call("scontrol", "requeue", job)
    slurm.hurry(job)
    until(lambda: slurm.is_completed(job), "the end of the job")
    starts = [event["first_round"] for event in run.events("RunStarted")]
    assert len(starts) == 2
    assert starts[0] == 1 < starts[1]
    assert run.model_sha256 == undisturbed
    assert {event["executor"] for event in run.events("TaskFinished")} != {"local"}
    assert not list(tmp_path.glob(".flspan-*"))
    assert not processes_with(str(tmp_path))


def test_a_job_near_its_time_limit_queues_itself_again(slurm: Slurm, tmp_path: Path, undisturbed: str) -> None:
    """The signal that Slurm sends then: all is saved, the job is requeued, and finishes."""
    job = _submitted(slurm, tmp_path)
    output = tmp_path / "out.txt"
    until(lambda: output.exists() and "\nround 7/" in output.read_text(), "round 7 of the job")
    slurm.call("scancel", "--batch", "--signal=USR1", job)
    slurm.hurry(job)
    until(lambda: slurm.is_completed(job), "the end of the job")
    (run,) = Finished.all_in(tmp_path / "runs").values()
    assert [event["reason"] for event in run.events("RunFinished")] == ["stopped", "finished"]
    assert "the job is queued again" in output.read_text()
    assert run.model_sha256 == undisturbed


def test_workers_of_srun_hold_a_run(launched: Callable[..., Launched], slurm: Slurm, undisturbed: str) -> None:
    """The job of the only worker is cancelled in the middle: another is asked for, and the bytes are the same."""
    launch = launched("--on", "slurm", "-n", "1", "--cpus", "1", env=slurm.env)
    launch.until_round(5)
    job = slurm.call("squeue", "--noheader", "--name=flworker-0", "--format=%i")
    slurm.call("scancel", job)
    launch.until_lost(1)
    assert launch.process.ended() == 0
    assert launch.run.model_sha256 == undisturbed
    until(lambda: not slurm.call("squeue", "--noheader"), "an empty queue")
    assert processes_with(str(launch.folder)) == []


def test_the_batch_file_is_one_that_slurm_takes(slurm: Slurm, tmp_path: Path) -> None:
    """`sbatch --test-only` says when it would begin."""
    words = ["sbatch", "--test-only", str(ROOT / "deploy" / "slurm" / "flspan.sbatch"), "experiment.toml"]
    env = {**os.environ, **slurm.env}
    done = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "to start at" in done.stderr


def test_the_batch_file_wants_an_experiment(tmp_path: Path) -> None:
    """Without Slurm too: what is missing is said before anything is started."""
    bash = shutil.which("bash")
    assert bash is not None
    script = ROOT / "deploy" / "slurm" / "flspan.sbatch"
    done = subprocess.run([bash, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "EXPERIMENT.toml" in done.stderr
