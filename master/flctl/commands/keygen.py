"""`flctl keygen FILE`: a fresh secret for master and workers, and the workers' TLS certificate.

The certificate is made by the `openssl` command, once, on one machine: Python's standard library cannot make
one, and what a run needs to speak TLS it has already, so no dependency is added for it.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import click

from protocol.errors import InputError
from protocol.secret import new_secret, write_private, write_secret
from protocol.tls import fingerprint_of

_DAYS = 36500  # fingerprints do not expire; to change a certificate, make another
_NEW_KEY = ("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
_CONFIGURATION = "[req]\ndistinguished_name = name\nx509_extensions = use\n[name]\n[use]\nbasicConstraints = CA:TRUE\n"


@click.command(name="keygen")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--tls/--no-tls", default=True, help="Also make FILE.crt and FILE.key, for links that cross a network.")
def command(*, file: Path, tls: bool) -> None:
    """Writes a new shared secret (32 random bytes) to FILE, readable by you alone.

    A worker that listens beyond this machine runs code that a master sends it, so both must hold the same secret.
    """
    certificate, key = file.with_name(file.name + ".crt"), file.with_name(file.name + ".key")
    of_worker = of_master = fingerprint = ""
    if tls:
        for path in (file, certificate, key):
            if path.exists():
                raise InputError(f"{path} exists: a secret is never overwritten; choose another name")
        fingerprint = _write_certificate(certificate, key)
        of_worker = f" --tls-cert {certificate.name} --tls-key {key.name}"
        of_master = f" --tls-fingerprint {fingerprint}"
    write_secret(file, new_secret())
    made = " ".join(str(path) for path in ((file, certificate, key) if tls else (file,)))
    click.echo(
        f"wrote {made} (mode 0600). Copy to every worker over a safe channel, keep the mode, and start with\n"
        f"  scp -p {made} gpu1:\n"
        f"  flworker --host 0.0.0.0 --port 7000 --secret-file {file.name}{of_worker}      on gpu1\n"
        f"  flmaster --workers gpu1:7000 --secret-file {file}{of_master} EXPERIMENT.toml"
    )


def _write_certificate(certificate: Path, key: Path) -> str:
    """A P-256 key and a certificate signed by itself. Returns the certificate's fingerprint, hexadecimal."""
    write_private(key, _openssl(*_NEW_KEY))
    with tempfile.NamedTemporaryFile("w", suffix=".cnf", encoding="ascii") as configuration:
        configuration.write(_CONFIGURATION)  # ours, so that it is the same certificate on every system
        configuration.flush()
        made = ("-subj", "/CN=flspan worker", "-days", str(_DAYS), "-sha256", "-config", configuration.name)
        text = _openssl("req", "-new", "-x509", "-key", str(key), *made)
    write_private(certificate, text)
    return fingerprint_of(text).hex()


def _openssl(*arguments: str) -> str:
    try:
        done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise InputError("the openssl command is not there: install it, or leave out TLS with --no-tls") from None
    if done.returncode:
        raise InputError(f"openssl {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout
