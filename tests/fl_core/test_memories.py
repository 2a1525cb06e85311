"""What clients remember, kept at the master."""

from __future__ import annotations

import torch

from fl_core.memories import ClientMemories
from fl_core.state import zeros

DECLARED = {"h": zeros(), "matrix": zeros((2, 2)), "rate": 0.1, "count": 3, "seen": False}


def memories(d: int = 3) -> ClientMemories:
    """Nobody has taken part yet."""
    return ClientMemories(DECLARED, d, torch.float32)


def rows(g: int, value: float) -> dict[str, torch.Tensor]:
    """What g clients remember after a round."""
    return {
        "h": torch.full((g, 3), value),
        "matrix": torch.full((g, 2, 2), -value),
        "rate": torch.full((g,), value, dtype=torch.float64),
        "count": torch.full((g,), int(value)),
        "seen": torch.ones(g, dtype=torch.bool),
    }


def test_new_clients_need_no_rows() -> None:
    """While all clients of a cohort still have the initial values, nothing is sent for them."""
    kept = memories()
    assert kept.gather((1, 2)) == {}
    kept.commit((5,), rows(1, 7.0))
    assert kept.gather((1, 2)) == {}


def test_a_cohort_of_old_and_new_clients() -> None:
    """Who took part has what was committed, the others the initial values; every type is exact."""
    kept = memories()
    kept.commit((4, 9), rows(2, 7.0))
    found = kept.gather((9, 0, 4))
    assert found["h"].tolist() == [[7.0] * 3, [0.0] * 3, [7.0] * 3]
    assert found["matrix"].shape == (3, 2, 2)
    assert found["rate"].tolist() == [7.0, 0.1, 7.0]
    assert found["count"].tolist() == [7, 3, 7]
    assert found["seen"].tolist() == [True, False, True]
    assert [found[name].dtype for name in ("h", "rate", "count", "seen")] == [
        torch.float32,
        torch.float64,
        torch.int64,
        torch.bool,
    ]


def test_the_last_commit_holds() -> None:
    """A client that takes part again remembers the later round."""
    kept = memories()
    kept.commit((1,), rows(1, 2.0))
    kept.commit((1,), rows(1, 5.0))
    assert kept.gather((1,))["h"].tolist() == [[5.0] * 3]


def test_what_is_kept_is_a_copy() -> None:
    """Neither the message's buffer nor what is handed out shares memory with what is kept."""
    kept, given = memories(), rows(1, 2.0)
    kept.commit((1,), given)
    given["h"].zero_()
    kept.gather((1,))["h"].zero_()
    assert kept.gather((1,))["h"].tolist() == [[2.0] * 3]


def test_state_and_restore() -> None:
    """A checkpoint of the memories brings all of them back; before any round it is empty."""
    kept, other = memories(), memories()
    assert kept.state().tensors == {}
    kept.commit((8,), rows(1, 1.0))
    kept.commit((2,), rows(1, 4.0))
    saved = kept.state().tensors
    assert saved["#clients"].tolist() == [2, 8]
    other.commit((5,), rows(1, 9.0))
    other.restore(saved)
    assert other.gather((5,)) == {}, "what was there before is gone"
    for name, stack in kept.gather((2, 8, 1)).items():
        assert torch.equal(stack, other.gather((2, 8, 1))[name])
        assert stack.dtype == other.gather((2, 8, 1))[name].dtype
    other.restore({})
    assert other.state().tensors == {}


def test_a_method_without_memory_keeps_nothing() -> None:
    """No declared field, no entry per client."""
    kept = ClientMemories({}, 3, torch.float32)
    kept.commit((1, 2), {})
    assert kept.state().tensors == {}
    assert kept.gather((1, 2)) == {}


def test_a_field_may_be_called_clients() -> None:
    """The saved ids have a name that no field can have, so neither overwrites the other."""
    before, after = (ClientMemories({"clients": zeros()}, 2, torch.float32) for _ in range(2))
    before.commit((4, 7), {"clients": torch.tensor([[1.0, 2.0], [3.0, 4.0]])})
    after.restore(before.state().tensors)
    assert after.gather((4, 7))["clients"].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert after.state().tensors["#clients"].tolist() == [4, 7]
