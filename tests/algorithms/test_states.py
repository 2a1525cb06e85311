"""The server's state is the mean of the clients', in every round: who took part, and what was compressed, do not
matter."""

from __future__ import annotations

from typing import Any

import pytest

KEPT = [
    ({"name": "diana"}, "h", "h_i"),
    ({"name": "diana", "shift_init": "gradient"}, "h", "h_i"),
    ({"name": "cofig", "alpha": 0.2}, "h", "h_i"),
    ({"name": "frecon"}, "h", "h_i"),
    ({"name": "frecon", "shift_init": "gradient"}, "h", "h_i"),
    ({"name": "ef21"}, "g", "g_i"),
    ({"name": "ef21", "g0": "compressed"}, "g", "g_i"),
    ({"name": "ef21-pp"}, "g", "g_i"),
    ({"name": "ef21-pp", "g0": "compressed"}, "g", "g_i"),
    ({"name": "scaffold", "option": 1}, "c", "c_i"),
    ({"name": "scaffold", "option": 2}, "c", "c_i"),
    ({"name": "scaffold", "shift_init": "gradient"}, "c", "c_i"),
]
UPLINKS = [{"name": "identity"}, {"name": "randk", "k": 1}, {"name": "natural"}]


def label(value: Any) -> str:
    """A method's table, short; nothing for the names of its states."""
    return "-".join(map(str, value.values())) if isinstance(value, dict) else ""


@pytest.mark.parametrize("how", ["full", "uniform", "poisson"])
@pytest.mark.parametrize(("table", "field", "own"), KEPT, ids=label)
def test_server_state_is_the_mean_of_client_states(lab: Any, table: Any, field: str, own: str, how: str) -> None:
    """To 1e-12, with several local steps as with one."""
    steps = 2 if how == "uniform" else 1
    for uplink in UPLINKS:
        participation = {} if how == "full" else {"sampling": how, "per_round": 2}
        session = lab.session(table, uplink=uplink, local={"steps": steps}, lr=0.1, rounds=8, **participation)
        seen = 0.0
        for played in lab.play(session):
            state = getattr(played.server.state, field)
            assert float((state - played.mean(own)).abs().max()) < 1e-12
            seen = max(seen, float(state.abs().max()))
        assert seen > 1e-3  # it was not zero all along
