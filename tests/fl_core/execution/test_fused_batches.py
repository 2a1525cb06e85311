"""A cohort's batches hold the samples that each client's estimator gives it alone, wherever its data lies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fl_core.estimators import Estimator
from fl_core.execution.fused_batches import Batches, Scratch
from fl_core.shards import Shards

KEY = (3, 2)
ESTIMATORS = {
    "full": Estimator("full", 1, None, None, 2),
    "minibatch": Estimator("minibatch", 4, None, 2, None),
    "nice": Estimator("nice", 1, 3, None, 2),
    "multi": Estimator("multi", 1, "50%", None, 2),
    "uniform": Estimator("uniform", 1, None, None, 2),
}
SIZES = {"ragged": [5, 1, 9, 4, 4, 12, 3], "alike": [6] * 7, "alike, as large as a batch": [4] * 7}


def _shards(sizes: list[int], sent: bool) -> Shards:
    source = torch.Generator().manual_seed(0)
    pairs = [(torch.randn(m, 1, generator=source), torch.randint(9, (m,), generator=source)) for m in sizes]
    if not sent:
        return Shards.of_clients(pairs)
    shards = Shards(len(sizes))
    for i, pair in enumerate(pairs):
        shards.add(i, pair)
    return shards


@pytest.mark.parametrize("sent", [False, True], ids=["loaded", "sent"])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("kind", ESTIMATORS)
def test_every_client_has_its_own_samples(kind: str, sizes: str, sent: bool) -> None:
    """All rows or a prefix, neighbours or not, each step again and after other steps, gathered whole or in parts."""
    estimator, shards = ESTIMATORS[kind], _shards(SIZES[sizes], sent)
    for order in ([0, 1, 2, 3, 4, 5, 6], [4, 2, 6, 0, 5, 1, 3]):
        clients = np.array(order)
        batches = Batches(clients, shards.sizes(clients), shards, estimator, KEY, torch.device("cpu"))
        for step, last in ((0, 7), (1, 5), (3, 7), (0, 7)):
            seen = []
            for batch in batches.at(step, 0, last):
                seen += list(batch.rows)
                parts = [batch.part(k, k + 1, Scratch()) for k in range(len(batch.rows))]
                for k, row in enumerate(batch.rows):
                    inputs, targets = shards.shard(order[row])
                    chosen: Any = estimator.indices(len(targets), (*KEY, order[row]), step)
                    chosen = slice(None) if chosen is None else chosen
                    for found in ((batch.pair[0][k], batch.pair[1][k]), (parts[k][0][0], parts[k][1][0])):
                        assert torch.equal(found[0], inputs[chosen])
                        assert torch.equal(found[1], targets[chosen])
            assert sorted(seen) == list(range(last))
        assert sum(batch.size * len(batch.rows) for batch in batches.full(0, 7)) == sum(SIZES[sizes])
