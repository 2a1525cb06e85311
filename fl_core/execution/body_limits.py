"""How large the body of a message of an experiment can be: what a link refuses above, before it takes memory."""

from __future__ import annotations

from fl_core.sampling import cohort_size
from fl_core.session import Session
from fl_core.shards import Shards
from fl_core.state import fields_of

_LEAST_BYTES = 256 << 20
"""Never less: a method may send fields of other shapes than `[d]`, and only its own code knows which."""
_NUMBER_BYTES = 8
_SLACK = 4
"""An encoded vector may take more bytes than the vector (indices beside values)."""


def body_limit(session: Session, shard_bytes: int) -> int:
    """Bytes that no Broadcast, Task, Shard or Result of the experiment exceeds.

    Args:
        shard_bytes: of the largest client's data.
    """
    experiment, d = session.experiment, session.layout.d
    cohort = cohort_size(experiment.execution.cohort, experiment.clients.per_round, d)
    algorithm = session.algorithm
    records = (algorithm.Broadcast, algorithm.Memory, algorithm.Reply)
    vectors = 1 + sum(len(fields_of(record)) for record in records)
    return max(_LEAST_BYTES, shard_bytes, _SLACK * _NUMBER_BYTES * d * vectors * max(1, cohort))


def largest_shard_bytes(shards: Shards) -> int:
    """Bytes of the largest client's inputs and targets."""
    inputs, targets = shards.whole()
    row_bytes = sum(t[0].numel() * t.element_size() for t in (inputs, targets) if len(t))
    return row_bytes * max(shards.size(i) for i in range(shards.n))


def result_bytes(session: Session) -> int:
    """Bytes of a cohort's Result as most methods send it: of each client its Reply and its Memory, uncompressed."""
    experiment, d = session.experiment, session.layout.d
    cohort = cohort_size(experiment.execution.cohort, experiment.clients.per_round, d)
    fields = len(fields_of(session.algorithm.Reply)) + len(fields_of(session.algorithm.Memory))
    return cohort * fields * d * session.layout.dtype.itemsize
