"""Certificates for tests, made as `flctl keygen` makes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from master.flctl import main
from protocol.tls import Tls, fingerprint_of, worker_tls


@dataclass(frozen=True)
class Made:
    """A secret, a certificate and its key."""

    secret: Path

    @property
    def certificate(self) -> Path:
        return self.secret.with_name(self.secret.name + ".crt")

    @property
    def key(self) -> Path:
        return self.secret.with_name(self.secret.name + ".key")

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.certificate.read_text()).hex()

    @property
    def worker(self) -> Tls:
        return worker_tls(self.certificate, self.key)


def made_by_keygen(folder: Path, name: str = "secret") -> Made:
    """Three new files in `folder`."""
    result = CliRunner().invoke(main, ["keygen", str(folder / name)])
    assert result.exit_code == 0, result.output
    return Made(folder / name)
