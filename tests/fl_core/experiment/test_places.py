"""The search for the line of a key."""

from __future__ import annotations

import pytest

from fl_core.experiment.places import Keys, Places, split_key

TEXT = """\
# a comment = with an equals sign
rounds = 3
"quoted key" = 1

[data]   # a comment
name = "digits"
partition = {
  name = "iid"
}
[local.optimizer]
lr = 0.1

[sweep]
"local.optimizer.lr" = [1]

[[run]]
seed = 1
[run.uplink]
name = "x"
[[run]]
uplink.name = "y"
"""


@pytest.mark.parametrize(
    ("path", "root", "line"),
    [
        ("rounds", (), 2),
        ("data", (), 5),
        ("data.name", (), 6),
        ("data.partition.alpha", (), 7),
        ("local", (), 10),
        ("local.optimizer.lr", (), 11),
        ("local.steps", (), 10),
        ("local.optimizer.lr", ("sweep",), 14),
        ("seed", ("run", "0"), 17),
        ("uplink.name", ("run", "0"), 19),
        ("uplink.name", ("run", "1"), 21),
        ("uplink.k", ("run", "1"), 21),
        ("seed", ("run", "1"), 20),
        ("model", (), None),
    ],
)
def test_a_key_is_found_or_the_nearest_around_it(path: str, root: Keys, line: int | None) -> None:
    """Tables, dotted keys, inline tables, sweeps and the n-th run each lead to the line one would look at."""
    assert Places(TEXT).line(split_key(path), root) == line
