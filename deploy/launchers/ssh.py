"""`--on ssh --at HOSTS`: a worker on each line of a hosts file, through ssh.

A line is `[user@]host`, and after it further options of its flworker; `#` begins a comment. What ssh needs to reach
the host (key, port, jump host) is in ~/.ssh/config or in `--engine-option`. Only the tensors travel outside ssh.
"""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from deploy.launchers.kept_worker import KeptWorker, KeptWorkers
from deploy.launchers.launcher import EVERYWHERE, LaunchOptions
from protocol.errors import InputError

SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3", "-T")
"""Asks nobody for a password, and notices a machine that is gone."""


def make(options: LaunchOptions) -> KeptWorkers:
    """A worker a line; `count`, when given, takes the first lines, and begins again when there are too few."""
    if not options.at:
        raise InputError("--on ssh needs a hosts file: --at hosts.txt, with a line [user@]host for each worker")
    hosts = read_hosts(Path(options.at))
    return KeptWorkers(
        [_worker(options, number, *hosts[number % len(hosts)]) for number in range(options.count or len(hosts))]
    )


def read_hosts(path: Path) -> list[tuple[str, list[str]]]:
    """Each line's host and words. Raises InputError: no file, no host, or a line that cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"the hosts file {path} cannot be read: {error.strerror}") from None
    hosts = []
    for number, line in enumerate(lines, start=1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}") from None
        if words and words[0].startswith("-"):
            raise InputError(f"{path}, line {number}: a line begins with [user@]host, not with {words[0]}")
        if words:
            hosts.append((words[0], words[1:]))
    if not hosts:
        raise InputError(f"the hosts file {path} names no host: write a line [user@]host for each worker")
    return hosts


def _worker(options: LaunchOptions, number: int, host: str, words: list[str]) -> KeptWorker:
    far = [options.flworker or "flworker", *options.words(number, EVERYWHERE), *words]
    command = [*SSH, *options.engine_options, host, "exec " + shlex.join(far)]
    log = options.log_folder / f"worker-{number}-{host.rpartition('@')[2]}.txt"
    return KeptWorker(command, options.secret, _dialled(host, options.engine_options), log)


def _dialled(host: str, engine_options: tuple[str, ...]) -> str:
    """The machine's name behind what may be an alias of ~/.ssh/config."""
    try:
        asked = subprocess.run(["ssh", *engine_options, "-G", host], capture_output=True, text=True, check=False)
    except OSError as error:
        raise InputError(f"--on ssh needs the program ssh: {error.strerror}") from None
    found = [line.partition(" ")[2] for line in asked.stdout.splitlines() if line.startswith("hostname ")]
    if asked.returncode or not found:
        raise InputError(f"ssh does not understand {host}: {asked.stderr.strip()}")
    return found[0]
