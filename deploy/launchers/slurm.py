"""`--on slurm`: each worker is a job of its own (srun), so Slurm places them when and where it has room.

A worker whose node fails, or whose job is preempted or reaches its time limit, is submitted again. In an allocation
(salloc, sbatch) each is a step of it. deploy/slurm/flspan.sbatch is the way without anything on the login node.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from deploy.launchers.kept_worker import NODE, KeptWorker, KeptWorkers
from deploy.launchers.launcher import EVERYWHERE, LaunchOptions
from protocol.errors import InputError

_SAY_NODE = f'echo "{NODE}$SLURMD_NODENAME"; exec "$0" "$@"'


def make(options: LaunchOptions) -> KeptWorkers:
    """One worker unless told otherwise."""
    if shutil.which("srun") is None:
        raise InputError("--on slurm needs the program srun: run it on a login node of the cluster")
    return KeptWorkers(
        [
            KeptWorker(_srun(options, number), options.secret, None, options.log_folder / f"worker-{number}.txt")
            for number in range(options.count or 1)
        ]
    )


def _srun(options: LaunchOptions, number: int) -> list[str]:
    flworker = options.flworker or str(Path(sys.executable).with_name("flworker"))
    wanted = ["--cpus-per-task", str(options.cpus)] if options.cpus else []
    wanted += ["--gpus-per-task", str(options.gpus)] if options.gpus else []
    wanted += ["--exact"] if "SLURM_JOB_ID" in os.environ else ["--job-name", f"flworker-{number}"]
    return [
        *("srun", "--nodes=1", "--ntasks=1", "--quiet", *wanted, *options.engine_options),
        *("sh", "-c", _SAY_NODE, flworker, *options.words(number, EVERYWHERE)),
    ]
