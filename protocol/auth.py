"""Mutual challenge-response: both sides show that they hold the secret, and neither ever sends it.

The transcript is the two opening headers as they were on the wire (versions, roles, nonces of 32 random
bytes, offers), each with its length, and the binding of the channel below (empty over plain TCP, the digest
of the certificate over TLS). Each side sends HMAC-SHA-256(SHA-256(secret), its role's label | transcript); the master
goes first, and the worker puts what it says of itself beside its proof under the proof too. The label keeps a
proof from being sent back to its maker, the nonces keep one from being used twice, and the transcript keeps
the offers from being changed on the way.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from protocol.errors import AuthenticationError
from protocol.states import Role

NONCE_BYTES = 32


def new_nonce() -> bytes:
    """32 random bytes, never used before."""
    return secrets.token_bytes(NONCE_BYTES)


def transcript(hello: bytes, challenge: bytes, channel_binding: bytes) -> bytes:
    """Digest of what both sides have said so far; no two different conversations give the same."""
    digest = hashlib.sha256()
    for part in (hello, challenge, channel_binding):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def proof(secret: bytes, role: Role, conversation: bytes, said: bytes = b"") -> bytes:
    """What ``role`` sends to show that it holds ``secret`` in this conversation (a transcript), and said ``said``."""
    key = hashlib.sha256(secret).digest()  # HMAC by itself takes a key and the same with zeros behind it for one
    return hmac.digest(key, b"flspan 1|" + role.value.encode() + b"|" + conversation + said, "sha256")


def check_proof(mac: bytes, secret: bytes, role: Role, conversation: bytes, said: bytes = b"") -> None:
    """Raise AuthenticationError unless ``mac`` is the proof of ``role``; takes the same time either way."""
    if not hmac.compare_digest(mac, proof(secret, role, conversation, said)):
        raise AuthenticationError(
            f"the {role.value} does not hold the same secret: give both sides the same --secret-file"
        )
