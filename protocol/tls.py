"""TLS 1.3 for links that cross a network: whose certificate is whose, without a socket.

A worker has a certificate and its key (``flctl keygen`` makes both), the master knows the SHA-256 of the
certificate, or a file with certificates it trusts. Names and dates in certificates are not looked at: the
handshake above is bound to the certificate (as ``tls-server-end-point`` of RFC 5929, always with SHA-256), so
whoever stands between master and worker with a certificate of their own cannot pass the proofs on. Binding to
the session itself (``tls-exporter``, RFC 9266) needs a function that Python's ``ssl`` does not have: a thief of
the worker's *key* could relay, which is why the key, like the secret, must be readable by its owner alone.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import AuthenticationError, InputError
from protocol.secret import require_private

FINGERPRINT_BYTES = 32


@dataclass(frozen=True)
class Tls:
    """One side's half of TLS.

    Attributes:
        own: the worker's fingerprint, SHA-256 of its certificate (DER); empty for a master.
        pins: the fingerprints a master takes; empty where ``context`` checks the certificate itself.
    """

    context: ssl.SSLContext
    own: bytes = b""
    pins: tuple[bytes, ...] = ()

    def binding(self, peer_certificate: bytes | None) -> bytes:
        """What the handshake is bound to: the fingerprint of the worker's certificate.

        Raises:
            AuthenticationError: the worker's certificate (DER) is not the one that was agreed on.
        """
        if self.own:
            return self.own
        found = hashlib.sha256(peer_certificate or b"").digest()
        if self.pins and not any(hmac.compare_digest(found, pin) for pin in self.pins):
            raise AuthenticationError(
                f"its certificate has the fingerprint {found.hex()}, which is not the one in --tls-fingerprint"
            )
        return found


def worker_tls(certificate: Path, key: Path) -> Tls:
    """A worker's half, of two PEM files.

    Raises:
        InputError: a file is missing, open to others (the key), or not what it should be.
    """
    require_private(key, "the TLS key")
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0  # a link is not resumed: nothing of an old one may open a new one
    try:
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except OSError as error:  # SSLError is one
        raise InputError(f"{certificate} and {key} are no certificate and its key: {_said(error)}") from None
    return Tls(context, own=_fingerprints(certificate)[0])


def master_tls(fingerprints: Sequence[str], trusted: Path | None) -> Tls:
    """A master's half: workers are known by ``fingerprints``, else by the PEM file ``trusted``.

    A certificate in ``trusted``, or one that it signed, is taken.

    Raises:
        InputError: a fingerprint that is not 64 hexadecimal digits, or a file without a certificate.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the bound handshake says who it is; addresses change, names are many
    if fingerprints:
        context.verify_mode = ssl.CERT_NONE  # `Tls.binding` compares the whole certificate instead
        return Tls(context, pins=tuple(map(parse_fingerprint, fingerprints)))
    if trusted is None:
        raise InputError("TLS needs a worker's fingerprint (--tls-fingerprint) or certificates (--tls-ca)")
    try:
        context.load_verify_locations(trusted)
    except OSError as error:
        raise InputError(f"--tls-ca {trusted} holds no certificate: {_said(error)}") from None
    return Tls(context)


def parse_fingerprint(text: str) -> bytes:
    """SHA-256 as 64 hexadecimal digits, with or without colons, as its 32 bytes. Raises InputError."""
    try:
        found = bytes.fromhex(text.strip().removeprefix("sha256:").replace(":", ""))
    except ValueError:
        found = b""
    if len(found) != FINGERPRINT_BYTES:
        raise InputError(f"--tls-fingerprint {text}: write the 64 hexadecimal digits that flctl keygen printed")
    return found


def fingerprint_of(pem: str) -> bytes:
    """SHA-256 of the DER of the first certificate in ``pem``. Raises ValueError: there is none."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    start = pem.index(begin)
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem[start : pem.index(end, start) + len(end)])).digest()


def _fingerprints(certificate: Path) -> list[bytes]:
    try:
        return [fingerprint_of(certificate.read_text(encoding="ascii"))]
    except (OSError, ValueError) as error:
        raise InputError(f"{certificate} holds no certificate: {error}") from None


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    return context


def _said(error: OSError) -> str:
    reason = getattr(error, "reason", None) or error.strerror or str(error)
    return str(reason).replace("_", " ").lower() if isinstance(error, ssl.SSLError) else str(reason)
