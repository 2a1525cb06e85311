"""The shared secret: made, written and read as a file that only its owner can read.

It is 64 or more hexadecimal digits (32 random bytes). It is never given on a command line, and prints as
stars.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from protocol.errors import InputError

SECRET_BYTES = 32


class Secret(bytes):
    """The bytes of a secret; no way of printing it shows them."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret(****)"

    __str__ = __repr__

    def __format__(self, specification: str) -> str:
        return format(repr(self), specification)


def new_secret() -> Secret:
    """32 fresh random bytes."""
    return Secret(secrets.token_bytes(SECRET_BYTES))


def write_secret(path: Path, secret: bytes) -> None:
    """Write ``secret`` to a new file of mode 0600. Raises InputError when the file exists already."""
    write_private(path, bytes(secret).hex() + "\n")


def write_private(path: Path, text: str) -> None:
    """Write a secret's ``text`` to a new file of mode 0600. Raises InputError when the file exists already."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise InputError(f"{path} exists: a secret is never overwritten; choose another name") from None
    except OSError as error:
        raise InputError(f"the secret file {path} cannot be made: {error.strerror}") from None
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)


def require_private(path: Path, what: str) -> None:
    """Raise InputError unless the file is there and its owner alone may touch it; ``what`` names it.

    A file of root's that this process may read as one of its group is as good: so systemd (LoadCredential) and
    Kubernetes (a secret's volume with an fsGroup) hand out secrets.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror}") from None
    mode = status.st_mode
    is_handed_out = status.st_uid == 0 and os.geteuid() != 0
    if mode & (stat.S_IRWXO | (stat.S_IWGRP | stat.S_IXGRP if is_handed_out else stat.S_IRWXG)):
        raise InputError(f"{what} {path} is open to others (mode {stat.S_IMODE(mode):04o}): chmod 600 {path}")


def read_secret(path: Path) -> Secret:
    """Read the secret in ``path``.

    Raises:
        InputError: no such file, others may read it, or it holds less than 64 hexadecimal digits.
    """
    require_private(path, "the secret file")
    try:
        with path.open("rb") as file:
            text = file.read(4096)
    except OSError as error:
        raise InputError(f"the secret file {path} cannot be read: {error.strerror}") from None
    try:
        secret = bytes.fromhex(text.decode("ascii").strip())
    except ValueError:
        secret = b""
    if len(secret) < SECRET_BYTES or len(set(secret)) < SECRET_BYTES // 4:
        raise InputError(
            f"the secret file {path} does not hold {2 * SECRET_BYTES} random hexadecimal digits: "
            "make one with: flctl keygen FILE"
        )
    return Secret(secret)
