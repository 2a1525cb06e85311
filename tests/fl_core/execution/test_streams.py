"""A cohort's random streams are, one by one, those of its clients alone."""

from __future__ import annotations

import torch

from fl_core.execution.streams import KeyedGenerators, seeds_of
from fl_core.randomness import generator, seed_of


def test_seeds_are_those_of_each_key() -> None:
    """Hashing what the keys share once changes no seed."""
    clients = [0, 7, 123_456_789]
    for purpose in ((), ("torch",), ("compress", 3), ("epoch", 0)):
        assert seeds_of(5, 2, clients, *purpose) == [seed_of(5, 2, i, *purpose) for i in clients]


def test_generators_are_made_when_asked_for_and_then_kept() -> None:
    """A stream goes on where it was, whichever way a client is asked for."""
    streams = KeyedGenerators(1, 2, [10, 11, 12], "torch")
    alone = generator(1, 2, 11, "torch")
    expected = torch.rand(4, generator=alone)
    first, second = torch.rand(2, generator=streams[1]), torch.rand(2, generator=streams[0:2][1])
    assert torch.equal(torch.cat([first, second]), expected)
    assert len(list(streams)) == len(streams) == 3
