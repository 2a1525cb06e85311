"""`--on local`: workers on this machine, as `flmaster --spawn` has them, for as long as one wants."""

from __future__ import annotations

from deploy.launchers.kept_worker import KeptWorker, KeptWorkers
from deploy.launchers.launcher import LaunchOptions, local_flworker

HERE = "127.0.0.1"


def make(options: LaunchOptions) -> KeptWorkers:
    """One worker unless told otherwise."""
    return KeptWorkers(
        [
            KeptWorker(
                [*local_flworker(), *options.words(number, HERE)],
                options.secret,
                HERE,
                options.log_folder / f"worker-{number}.txt",
            )
            for number in range(options.count or 1)
        ]
    )
