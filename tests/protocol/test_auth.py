"""protocol.auth: proofs say who holds the secret, in one conversation and one role."""

from __future__ import annotations

import hashlib
import hmac
import itertools

import pytest

from protocol import auth
from protocol.errors import AuthenticationError
from protocol.states import Role


def test_a_proof_is_hmac_sha256_over_label_and_transcript() -> None:
    """The construction, spelled out."""
    key = hashlib.sha256(b"key").digest()
    expected = hmac.new(key, b"flspan 1|master|" + b"conversation", "sha256").digest()
    assert auth.proof(b"key", Role.MASTER, b"conversation") == expected
    auth.check_proof(expected, b"key", Role.MASTER, b"conversation")


@pytest.mark.parametrize(
    ("secret", "role", "conversation"),
    [
        (b"other", Role.MASTER, b"conversation"),
        (b"key\0", Role.MASTER, b"conversation"),
        (b"key", Role.WORKER, b"conversation"),
        (b"key", Role.MASTER, b""),
    ],
)
def test_any_other_secret_role_or_conversation_is_refused(secret: bytes, role: Role, conversation: bytes) -> None:
    """A proof holds for its own secret, role and conversation only; the error says what to do."""
    mac = auth.proof(secret, role, conversation)
    with pytest.raises(AuthenticationError, match="--secret-file"):
        auth.check_proof(mac, b"key", Role.MASTER, b"conversation")


def test_transcripts_of_different_conversations_differ() -> None:
    """Moving a byte from one part to the next gives another transcript."""
    parts = [(b"ab", b"c", b""), (b"a", b"bc", b""), (b"a", b"b", b"c"), (b"", b"abc", b""), (b"abc", b"", b"")]
    digests = [auth.transcript(*part) for part in parts]
    assert all(one != other for one, other in itertools.combinations(digests, 2))


def test_nonces_are_fresh() -> None:
    """No two of a thousand are equal, each has 32 bytes."""
    nonces = {auth.new_nonce() for _ in range(1000)}
    assert len(nonces) == 1000
    assert {len(nonce) for nonce in nonces} == {32}
