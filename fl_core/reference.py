"""Algorithm 1 in one thread: the executable specification. Every other way to run must end with the same bytes.

Burlachenko, Horváth, Richtárik 2021, "FL_PyTorch: optimization research simulator for federated learning",
arXiv 2202.03099, Algorithm 1 (generalised FedAvg).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from compressors.compressor import NonFiniteError
from fl_core.client import Client, Message
from fl_core.errors import UserCodeError
from fl_core.execution.reply_checks import Alike, NonFiniteReplyError, check_finite, check_reply
from fl_core.intra_op import use_intra_op_threads
from fl_core.oracle import Oracle
from fl_core.randomness import ClientRandomness, UnkeyedDraws, global_state
from fl_core.replies import CohortReplies
from fl_core.server import Round, Server
from fl_core.state import State, as_dict, as_tensor, recalled, settled
from fl_core.tensors import unchanged
from fl_core.user_code import in_user_code

if TYPE_CHECKING:
    from fl_core.session import Session


def run_reference(session: Session) -> Iterator[tuple[Server, dict[str, float]]]:
    """Run a whole experiment; after every round, the server and the round's metrics."""
    server = session.server()
    memories: dict[int, dict[str, torch.Tensor]] = {}
    oracle = session.problem.oracle("cpu")
    for t in range(1, session.experiment.rounds + 1):
        use_intra_op_threads(session.experiment.execution.intra_op_threads)  # a round may run in another thread
        round = server.begin_round(t)
        finished, clients, bits_up = [], [], 0
        for cohort in round.cohorts:
            replies, took_part, alike = [], [], Alike(session.algorithm)
            for i in cohort:
                try:
                    client, reply, memory = _turn_of(session, oracle, round, i, memories.get(i, {}))
                except (UserCodeError, NonFiniteError, NonFiniteReplyError):
                    if session.experiment.on_error == "stop":
                        raise
                    continue
                alike.check(reply, i)
                memories[i] = memory
                bits_up += sum(8 * _payload_bytes(value) for value in as_dict(reply).values())
                replies.append({name: _value(value) for name, value in as_dict(reply).items()})
                took_part.append(client)
            if took_part:
                fields = {name: torch.stack([reply[name] for reply in replies]) for name in replies[0]}
                ids, m = tuple(c.id for c in took_part), tuple(c.m for c in took_part)
                finished.append(CohortReplies(ids, m, fields))
            clients += took_part
        metrics = server.finish_round(finished)
        seen = sum(c.loss_count for c in clients)
        if seen:
            metrics["loss_train"] = math.fsum(float(c.loss_sum) for c in clients) / seen
        if session.experiment.on_error == "skip":
            metrics["skipped"] = round.clients - len(clients)
        metrics |= {
            "round": t,
            "clients": len(clients),
            "oracle_calls": sum(c.oracle_calls for c in clients),
            "bits_up": bits_up,
            "bits_down": round.broadcast.bits,
        }
        yield server, metrics


def _turn_of(
    session: Session, oracle: Oracle, round: Round, i: int, remembered: dict[str, torch.Tensor]
) -> tuple[Client, State, dict[str, torch.Tensor]]:
    """Client i's local work, which must draw random numbers from the client's own generator only."""
    before = global_state(oracle.device)
    client, reply, memory = _local_work(session, oracle, round, i, remembered)
    if not torch.equal(before, global_state(oracle.device)):
        with UnkeyedDraws(oracle.device):  # raises at what has drawn past the client's own generator
            _local_work(session, oracle, round, i, remembered)
    return client, reply, memory


def _local_work(
    session: Session, oracle: Oracle, round: Round, i: int, remembered: dict[str, torch.Tensor]
) -> tuple[Client, State, dict[str, torch.Tensor]]:
    """Client i's round: the client after it, its reply, and what it remembers now."""
    problem, algorithm, sent = session.problem, session.algorithm, round.broadcast
    memory = recalled(algorithm.Memory, remembered, problem.initial_memory(algorithm))
    s = algorithm.Broadcast(**sent.shared, **{name: values[i] for name, values in sent.own.items()})
    oracle.reset_buffers()
    client = Client(i, round.number, problem.shard(i), memory, session.work, oracle)
    data = {"inputs": client.inputs, "targets": client.targets}
    with in_user_code(i), unchanged(x0=sent.x, s=vars(s), client=data), ClientRandomness(client.generator("torch")):
        x = client.run(algorithm, sent.x, s)
        reply: State = algorithm.local_state(client, sent.x, x, s)
        check_reply(reply, algorithm, i)
        check_finite(reply, i, round.number)
        kept = settled(client.memory, problem.initial_memory(algorithm), type(algorithm).__name__)
    return client, reply, kept


def _value(field: Any) -> torch.Tensor:
    return field.value if isinstance(field, Message) else as_tensor(field)


def _payload_bytes(field: Any) -> int:
    return int(field.payload.nbytes if isinstance(field, Message) else as_tensor(field).nbytes)
