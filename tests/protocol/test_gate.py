"""protocol.gate: how many strangers there may be, and how much is said about them."""

from __future__ import annotations

from protocol.gate import Complaints, Gate


def test_one_address_cannot_fill_the_door() -> None:
    """Four of one address, then none of it, while others are let in; who leaves makes room."""
    gate = Gate(total=10, each=4)
    assert [gate.refusal("10.0.0.1") for _ in range(4)] == [None] * 4
    assert "too many connections from 10.0.0.1" in (gate.refusal("10.0.0.1") or "")
    assert gate.refusal("10.0.0.2") is None
    gate.leave("10.0.0.1")
    assert gate.refusal("10.0.0.1") is None
    assert gate.waiting == 5


def test_there_is_an_end_to_strangers_of_all_addresses() -> None:
    """Beyond the total nobody is let in until one leaves."""
    gate = Gate(total=3, each=2)
    assert [gate.refusal(f"10.0.0.{k}") for k in range(3)] == [None] * 3
    assert gate.refusal("10.0.0.9") == "too many connections wait for their handshake"
    gate.leave("10.0.0.0")
    assert gate.refusal("10.0.0.9") is None


def test_addresses_of_one_ipv6_network_are_one() -> None:
    """Whoever has an address has its /64; an IPv4 address written as IPv6 is the same as itself."""
    gate = Gate(total=10, each=1)
    assert gate.refusal("2001:db8::1") is None
    assert gate.refusal("2001:db8::ffff:2") is not None
    assert gate.refusal("2001:db8:0:1::1") is None
    assert gate.refusal("fe80::1%eth0") is None
    assert gate.refusal("::ffff:10.0.0.1") is None
    assert gate.refusal("10.0.0.1") is not None


def test_the_log_is_not_filled() -> None:
    """Two lines a minute, then none; the next one tells how many there were."""
    complaints = Complaints(limit=2, window_s=60.0)
    said = [complaints.line(f"refused {k}", 10.0 + k) for k in range(1000)]
    assert said[:3] == ["refused 0", "refused 1", None]
    assert said[60] == "refused 60 (and 58 more that were not logged)"
    assert sum(line is not None for line in said) == 2 * -(-1000 // 60)
