"""protocol.heartbeat: silence is counted only while we listened."""

from __future__ import annotations

from protocol.heartbeat import Heartbeat, Progress


def test_a_silent_peer_is_dead_after_the_limit_and_not_before() -> None:
    """Beats once a second: dead at the fifth silent one, counted from the last byte."""
    heartbeat = Heartbeat(1.0, 5.0, 0.0)
    assert not any(heartbeat.is_dead(float(now)) for now in range(1, 4))
    heartbeat.heard(3.5)
    assert [heartbeat.is_dead(float(now)) for now in range(4, 10)] == [False] * 5 + [True]
    assert heartbeat.silence_s(9.0) == 5.5


def test_a_pause_of_this_process_is_not_held_against_the_peer() -> None:
    """A beat that comes a minute late kills nobody; five more silent beats do."""
    heartbeat = Heartbeat(1.0, 5.0, 0.0)
    assert not heartbeat.is_dead(1.0)
    assert not heartbeat.is_dead(61.0)
    assert [heartbeat.is_dead(61.0 + beat) for beat in range(1, 5)] == [False, False, True, True]


def test_while_we_do_not_read_the_peer_cannot_die() -> None:
    """An owner that is behind for a minute finds its peer alive, and the count begins anew."""
    heartbeat = Heartbeat(1.0, 5.0, 0.0)
    for now in range(1, 60):
        heartbeat.not_listening(float(now))
        assert not heartbeat.is_dead(float(now))
    assert [heartbeat.is_dead(59.0 + beat) for beat in range(1, 6)] == [False] * 4 + [True]


def test_a_message_that_drips_is_stuck_and_one_that_flows_is_not() -> None:
    """Below the least rate for the whole time, a message that is due is stuck; above it, or when none is due, not."""
    for rate, is_due, expected in ((50, True, True), (150, True, False), (50, False, False)):
        progress = Progress(100.0, 30.0, 0.0)
        found = [progress.is_stuck(float(t), rate * t, is_due) for t in range(1, 200)]
        assert any(found) is expected
        assert found.index(True) + 1 == 30 if expected else True


def test_time_in_which_nobody_read_is_not_held_against_a_message() -> None:
    """Each look at which this side was not reading begins the time anew."""
    progress = Progress(100.0, 30.0, 0.0)
    assert not any(progress.is_stuck(float(t), 0, t % 20 != 0) for t in range(1, 200))
