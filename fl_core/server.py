"""The server's side of Algorithm 1: the same few lines for the reference and for the distributed master."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from compressors.compressor import Compressor
from compressors.identity import Identity
from fl_core.algorithm import Algorithm
from fl_core.client import omega_of
from fl_core.errors import PlugInError, UserCodeError
from fl_core.optimizers import FlatOptimizer, Schedule
from fl_core.randomness import generator
from fl_core.replies import WEIGHTINGS, Asked, CohortReplies, FieldSums, Reads, Replies, UnreducedError
from fl_core.sampling import Sampler, cohort_size, cut
from fl_core.server_checks import StateCheck, check_unwritten, check_vector
from fl_core.state import Number, State, as_dict, as_tensor, fields_of, initial, shown
from fl_core.user_code import in_user_code

if TYPE_CHECKING:
    from fl_core.experiment.schema import Experiment


@dataclass(frozen=True)
class Broadcast:
    """What a round sends down.

    Attributes:
        x: the model `[d]` as the clients receive it.
        shared: Broadcast fields equal for all clients; these travel once a worker, with x.
        own: Broadcast fields that differ, name -> client -> value; these travel with the client's task.
        bits: of everything above, summed over the clients that receive it.
    """

    round: int
    x: Tensor
    shared: dict[str, Tensor | Number]
    own: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    bits: int = 0


@dataclass(frozen=True)
class Round:
    """A round about to be run: who takes part, in which cohorts, and what they receive."""

    number: int
    cohorts: tuple[tuple[int, ...], ...]
    broadcast: Broadcast

    @property
    def participants(self) -> tuple[int, ...]:
        """The clients of all cohorts, in order."""
        return tuple(i for cohort in self.cohorts for i in cohort)

    @property
    def clients(self) -> int:
        """How many take part."""
        return sum(map(len, self.cohorts))


@dataclass(frozen=True)
class Effort:
    """What a client does in a round, the mean over all clients: local steps, and the samples they use together."""

    steps: float = 1.0
    samples: float = math.inf


class Server:
    """x, the server's state and its optimizer, between and during rounds.

    Nothing changes but in `finish_round`: a round that was begun and given up can be begun again. Not so one that
    failed in the middle of its step: `is_whole` is False then, and what is kept here is of no round.

    Attributes an algorithm may read: `x` `[d]`, `state` (its ServerState), `n` clients, `d`, `round`, `lr`
    (the server's η_g of this round), `local_lr` (η_l), `tau` (τ, the clients' mean number of local steps),
    `per_round` (S, the expected number of participants), `uplink` (the operator clients compress with),
    `generator(*purpose)`.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        experiment: Experiment,
        x0: Tensor,
        uplink: Compressor,
        downlink: Compressor,
        effort: Effort = Effort(),
    ) -> None:
        self.algorithm = algorithm
        self.x = x0.clone()
        self.d = x0.numel()
        self.n = experiment.clients.total
        self.round = 0
        self.finished_rounds = 0
        self.is_whole = True
        self.uplink = uplink
        self.seed = experiment.seed
        self._reads: Reads = set()
        self.local_lr = float(experiment.local.optimizer.options.get("lr", 0.0))
        self.tau = effort.steps
        c = experiment.clients
        self._sampler = Sampler(c.sampling, c.total, c.per_round, experiment.seed, experiment.rounds)
        self.per_round = self.n if c.sampling == "full" else c.per_round
        self._cohort = cohort_size(experiment.execution.cohort, experiment.clients.per_round, self.d, effort.samples)
        self._downlink = downlink
        self._received = self.x  # the model as clients hold it: x itself unless the downlink compresses
        self._next_received = self._received
        table = experiment.server.optimizer
        self.optimizer = FlatOptimizer(table.name, table.options)
        schedule = experiment.server.schedule
        self._schedule = Schedule(schedule.name, schedule.options, self.optimizer.lr, experiment.rounds)
        self.optimizer.restore(self.x, {})
        with in_user_code():
            self.state: Any = algorithm.initialize_server_state(self.x)
        if self.state is None:
            self.state = initial(algorithm.ServerState, type(algorithm).__name__, self.d, x0.dtype)
        self._state_check = StateCheck(algorithm, self.state, self.d, x0.dtype)

    @property
    def lr(self) -> float:
        """η_g, the server's step size in this round."""
        return self.optimizer.lr

    @property
    def local_step(self) -> float:
        """η_l τ: the length, along a gradient, of a round of local steps. A method's γ is η_g times this."""
        return self.local_lr * self.tau

    @property
    def omega(self) -> float:
        """ω of the uplink operator. Raises ExperimentError if it is biased."""
        return omega_of(self.uplink, self.d)

    @property
    def received(self) -> Tensor:
        """x `[d]` as the clients received it this round: x itself, unless the downlink compresses."""
        return self._next_received

    def generator(self, *purpose: int | str) -> torch.Generator:
        """A generator for a purpose of the algorithm's own, keyed by (seed, round, "server", purpose)."""
        return generator(self.seed, self.round, "server", *purpose)

    def begin_round(self, number: int) -> Round:
        """Sample the participants, cut them into cohorts, and make what they receive."""
        self.round = number
        self.optimizer.set_lr(self._schedule.lr(number))
        sampled = self._sampler.sample(number)
        with in_user_code():
            participants = self._participants(sampled)
            return Round(number, cut(participants, self._cohort), self._broadcast(participants))

    def _participants(self, sampled: tuple[int, ...]) -> tuple[int, ...]:
        if type(self.algorithm).participants is Algorithm.participants:
            return sampled
        # Plain integers: a client's id keys its random numbers, and 3 must be one key wherever it came from.
        participants = tuple(sorted({int(i) for i in self.algorithm.participants(self, sampled)}))
        if participants and not 0 <= participants[0] <= participants[-1] < self.n:
            raise PlugInError(f"participants() names a client that is none of the {self.n}: {participants}")
        return participants

    def asked(self) -> Asked:
        """Of which Reply fields sums are enough, going by what the method has read so far; of which kinds.

        Of a field that it has not read yet, both: an initialisation may not need what later rounds do.
        """
        fields = [name for name in fields_of(self.algorithm.Reply) if (name, "rows") not in self._reads]
        read = {name: tuple(kind for kind in WEIGHTINGS if (name, kind) in self._reads) for name in fields}
        return {name: kinds or WEIGHTINGS for name, kinds in read.items()}

    def finish_round(
        self, cohorts: Sequence[CohortReplies], sums: Mapping[str, FieldSums] | None = None
    ) -> dict[str, float]:
        """ServerGradient, ServerOpt, ServerGlobalState. Returns the metrics known here.

        Args:
            sums: of the fields whose rows were not kept.

        Raises:
            UnreducedError: the method needs rows that were not kept. Nothing has changed, but for what `asked` says.
        """
        before = self.snapshot() if sums else None
        replies = Replies(cohorts, self.x, self.algorithm.Reply, sums)
        try:
            g = self._step(replies)
        except UnreducedError:
            assert before is not None
            round, received = self.round, self._next_received
            self.restore(*before)
            self.round, self._next_received, self.is_whole = round, received, True
            raise
        finally:
            self._reads |= replies.reads
        self._received = self.x if isinstance(self._downlink, Identity) else self._next_received
        self.finished_rounds, self.is_whole = self.round, True
        return {"direction_norm": float(torch.linalg.vector_norm(g, dtype=torch.float64))}

    def _step(self, replies: Replies) -> Tensor:
        algorithm = self.algorithm
        with torch.no_grad(), in_user_code():
            version = self.x._version
            g = algorithm.server_gradient(self, replies)
            check_unwritten(self.x, version, algorithm, "server_gradient")
            if replies.lacking is not None:  # what it returns means nothing then
                raise replies.lacking
            check_vector(g, self.x, algorithm, "server_gradient")
            self.is_whole = False
            x_next = algorithm.server_opt(self, g)
            check_unwritten(self.x, version, algorithm, "server_opt")
            check_vector(x_next, self.x, algorithm, "server_opt")
            state = algorithm.server_global_state(self, replies, g)
            check_unwritten(self.x, version, algorithm, "server_global_state")
            if replies.lacking is not None:
                raise replies.lacking
            self._state_check.check(state, "server_global_state")
            self.state = state
            self.x = self.optimizer.handed_over(x_next)
        return g

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Number]]:
        """Everything a later `restore` needs, as tensors and numbers by name. The tensors are not written to again."""
        tensors = {"x": self.x}
        if self._received is not self.x:
            tensors["received"] = self._received
        numbers: dict[str, Number] = {"round": self.finished_rounds}
        for name, value in as_dict(self.state).items():
            if isinstance(value, Tensor):
                tensors[f"state/{name}"] = value.clone()
            else:
                numbers[f"state/{name}"] = value
        tensors |= {f"optimizer/{name}": value.clone() for name, value in self.optimizer.state().items()}
        return tensors, numbers

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Number]) -> None:
        """Go on where a snapshot was taken."""
        self.x = tensors["x"]
        self._received = tensors.get("received", self.x)
        self._next_received = self._received
        self.round = self.finished_rounds = int(numbers["round"])
        kept = {**tensors, **numbers}
        fields = {name: kept[f"state/{name}"] for name in as_dict(self.state)}
        self.state = type(self.state)(**fields)
        self.optimizer.restore(
            self.x,
            {name.removeprefix("optimizer/"): t for name, t in tensors.items() if name.startswith("optimizer/")},
        )

    def _broadcast(self, participants: tuple[int, ...]) -> Broadcast:
        shared, own = self._broadcast_fields(participants)
        bits = self._send_model(len(participants))
        for value in shared.values():
            bits += len(participants) * (8 * value.nbytes if isinstance(value, Tensor) else _NUMBER_BITS[type(value)])
        bits += sum(8 * value.nbytes for rows in own.values() for value in rows.values())
        return Broadcast(self.round, self._next_received, shared, own, bits)

    def _send_model(self, participants: int) -> int:
        """Bring the model the clients hold up to date; the bits that takes.

        A compressing downlink sends C(x - w) to every client, which all add to their w (EF21-P; Gruntkowska, Tyurin,
        Richtárik 2022, arXiv 2209.15218, Algorithm 1); everyone starts from the x^0 they were sent once.
        """
        if isinstance(self._downlink, Identity):
            self._next_received = self.x
            return participants * 8 * self.x.nbytes
        source = generator(self.seed, self.round, "downlink")
        message = self._downlink.encode((self.x - self._received).unsqueeze(0), [source])
        self._next_received = self._received + message.value[0]
        first = self.n * 8 * self.x.nbytes if self.round == 1 else 0
        return first + self.n * 8 * message.payload.nbytes

    def _broadcast_fields(
        self, participants: tuple[int, ...]
    ) -> tuple[dict[str, Tensor | Number], dict[str, dict[int, Tensor]]]:
        if (
            participants and type(self.algorithm).client_state is Algorithm.client_state
        ):  # it does not ask who it is for
            return self._fields_for(participants[0]), {}
        records = {i: self._fields_for(i) for i in participants}
        shared: dict[str, Tensor | Number] = {}
        own: dict[str, dict[int, Tensor]] = {}
        if not records:
            return shared, own
        first = next(iter(records.values()))
        for name, value in first.items():
            values = {i: record[name] for i, record in records.items()}
            if all(_same(value, other) for other in values.values()):
                shared[name] = value
            else:
                own[name] = {i: as_tensor(other) for i, other in values.items()}
        return shared, own

    def _fields_for(self, client: int) -> dict[str, Tensor | Number]:
        sent = self.algorithm.client_state(self, client)
        if not isinstance(sent, State):
            text = f"must return self.Broadcast(...), not {shown(sent)}"
            raise UserCodeError.of_method(type(self.algorithm), "client_state", text)
        fields = as_dict(sent)
        for name, value in fields.items():
            if not isinstance(value, Tensor | bool | int | float):
                owner = type(self.algorithm).__name__
                raise PlugInError(f"{owner}.Broadcast.{name} must be a tensor or a number, not {value!r:.80}")
        return {name: float(value) if isinstance(value, float) else value for name, value in fields.items()}


_NUMBER_BITS: dict[type, int] = {bool: 1, int: 64, float: 64}


def _same(a: Tensor | Number, b: Tensor | Number) -> bool:
    if a is b:
        return True
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return type(a) is type(b) and bool(a == b)
