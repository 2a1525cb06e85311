"""A run of the specification that looks over the method's shoulder: what each call left changed that it must not."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from fl_core.client import Client, Message
from fl_core.contract.trajectory import changed, copied, same
from fl_core.oracle import Oracle
from fl_core.randomness import ClientRandomness, generator
from fl_core.replies import CohortReplies, Replies
from fl_core.server import Round, Server
from fl_core.session import Session
from fl_core.state import State, as_dict, as_tensor, fields_of
from fl_core.user_code import in_user_code


class Probe:
    """One run, client by client, with what it found.

    Attributes:
        complaints: property -> texts.
        counts: how often each thing was looked at.
        sizes: bytes of the server's state and of one client's memory, after every round.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.complaints: dict[str, list[str]] = defaultdict(list)
        self.counts: dict[str, int] = defaultdict(int)
        self.sizes: list[tuple[int, int]] = []
        self.moved = 0.0
        self._algorithm = session.algorithm
        self._memories: dict[int, Any] = {}
        self._run()

    def _run(self) -> None:
        server, oracle = self.session.server(), self.session.problem.oracle("cpu")
        own_fields = copied(vars(self._algorithm))
        self._check_state(server, 0)
        for t in range(1, self.session.experiment.rounds + 1):
            round = server.begin_round(t)
            self._check_client_state(server, round)
            cohorts = [self._cohort(server, round, cohort, oracle) for cohort in round.cohorts]
            self._check_server_methods(server, cohorts)
            before = server.x.clone()
            server.finish_round(cohorts)
            self.moved += float(torch.linalg.vector_norm((server.x - before).double()))
            self._check_state(server, t)
            held = [_bytes(vars(memory)) for memory in self._memories.values()]
            self.sizes.append((_bytes(as_dict(server.state)), max(held, default=0)))
        for name in {*vars(self._algorithm)} ^ {*own_fields} | set(changed(own_fields, vars(self._algorithm))):
            self._complain("hidden", f"self.{name} was changed; keep state in ServerState or Memory, or it is lost")

    # --- clients ------------------------------------------------------------

    def _cohort(self, server: Server, round: Round, cohort: tuple[int, ...], oracle: Oracle) -> CohortReplies:
        replies, sizes = [], []
        for i in cohort:
            reply, m = self._client(round, i, oracle)
            replies.append(reply)
            sizes.append(m)
        fields = {name: torch.stack([self._value(reply[name]) for reply in replies]) for name in replies[0]}
        return CohortReplies(cohort, tuple(sizes), fields)

    def _client(self, round: Round, i: int, oracle: Oracle) -> tuple[dict[str, Any], int]:
        session, algorithm = self.session, self._algorithm
        x0, t = round.broadcast.x, round.number
        received = {**round.broadcast.shared, **{name: values[i] for name, values in round.broadcast.own.items()}}
        memory = self._memories.setdefault(i, session.problem.initial_memory(algorithm))
        others = {j: copied(vars(m)) for j, m in self._memories.items() if j != i}
        before = copied(received | {"x0": x0})
        s = algorithm.Broadcast(**received)
        oracle.reset_buffers()
        client = Client(i, t, session.problem.shard(i), memory, session.work, oracle)
        with in_user_code(i), ClientRandomness(client.generator("torch")):
            x = client.run(algorithm, x0, s)
            reply = algorithm.local_state(client, x0, x, s)
        where = f"round {t}, client {i}"
        for name in changed(before, received | {"x0": x0}):
            what = "x0, the model it was sent," if name == "x0" else f"Broadcast.{name}"
            self._complain("in place", f"{where} changed {what} in place: all clients share it")
        for j, kept in others.items():
            for name in changed(kept, vars(self._memories[j])):
                self._complain("memories", f"{where} changed Memory.{name} of client {j}")
        self.counts["memories"] += len(others)
        self._check_memory(memory, where)
        self._check_reply(reply, where)
        memory_now = copied({name: getattr(memory, name) for name in fields_of(algorithm.Memory)})
        for name, value in memory_now.items():
            setattr(memory, name, value)  # as after its way to the master and back: no tensor is shared with a reply
        return {name: self._checked_message(i, t, name, value) for name, value in as_dict(reply).items()}, client.m

    def _check_memory(self, memory: Any, where: str) -> None:
        declared = set(fields_of(self._algorithm.Memory))
        for name in set(vars(memory)) - declared:
            self._complain("declared", f"{where} set memory.{name}, which Memory does not declare: it would be lost")
        start = vars(self.session.problem.initial_memory(self._algorithm))
        for name in declared:
            self._check_kind(f"{where}: Memory.{name}", getattr(memory, name), start[name])

    def _check_reply(self, reply: Any, where: str) -> None:
        if not isinstance(reply, State):
            self._complain("declared", f"{where}: local_state returned {reply!r:.60}, not self.Reply(...)")
            return
        for name in set(vars(reply)) - set(fields_of(self._algorithm.Reply)):
            self._complain("declared", f"{where}: reply.{name} is not declared in Reply: it would not be sent")
        for name, field in as_dict(reply).items():
            value = self._value(field)
            self.counts["values"] += value.numel()
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                self._complain("finite", f"{where}: Reply.{name} holds NaN or inf")

    def _checked_message(self, i: int, t: int, name: str, field: Any) -> Any:
        """A message decoded from its bytes, as the master will; anything else as it is."""
        if not isinstance(field, Message):
            return field
        work, layout = self.session.work, self.session.layout
        source = generator(work.seed, t, i, "compress", field.call)
        decoded = work.compressor.decode(field.payload, (field.payload.nbytes,), layout, [source])[0]
        self.counts["messages"] += 1
        self.counts["bytes"] += field.payload.nbytes
        if not same(decoded, field.value):
            gap = float((decoded.double() - field.value.double()).abs().max())
            self._complain("messages", f"round {t}, client {i}: Reply.{name} decodes to something else, by {gap:.3g}")
        return field

    # --- the server ------------------------------------------------------------

    def _check_client_state(self, server: Server, round: Round) -> None:
        for i in round.participants[:2]:
            with in_user_code():
                first, again = (copied(as_dict(self._algorithm.client_state(server, i))) for _ in range(2))
            for name in changed(first, again):
                self._complain("pure", f"client_state called twice for client {i} gave two values of Broadcast.{name}")

    def _check_server_methods(self, server: Server, cohorts: list[CohortReplies]) -> None:
        """server_gradient and server_global_state twice: the same values, and nothing changed on the way."""
        algorithm, t = self._algorithm, server.round
        replies = Replies(cohorts, server.x, algorithm.Reply)
        before = {"server.x": server.x.clone()} | self._prefixed(server) | self._of(cohorts)
        with torch.no_grad(), in_user_code():
            first = algorithm.server_gradient(server, replies).clone()
            again = algorithm.server_gradient(server, replies)
            if not same(first, again):
                self._complain("pure", f"round {t}: server_gradient called twice gave two directions")
            if first.shape != server.x.shape or first.dtype != server.x.dtype:
                shape = f"{first.dtype} {list(first.shape)}"
                self._complain("shape", f"round {t}: G is {shape}, not {server.x.dtype} {list(server.x.shape)}")
            states = [copied(as_dict(algorithm.server_global_state(server, replies, first))) for _ in range(2)]
        for name in changed(*states):
            self._complain("pure", f"round {t}: server_global_state called twice gave two values of {name}")
        after = {"server.x": server.x} | self._prefixed(server) | self._of(cohorts)
        for name in changed(before, after):
            self._complain("pure", f"round {t}: server_gradient or server_global_state changed {name} in place")
        self.counts["rounds"] += 1

    def _check_state(self, server: Server, t: int) -> None:
        algorithm = self._algorithm
        if not isinstance(server.state, algorithm.ServerState):
            where = "initialize_server_state" if t == 0 else "server_global_state"
            self._complain("declared", f"{where} returned {server.state!r:.60}, not a ServerState")
            return
        for name in set(vars(server.state)) - set(fields_of(algorithm.ServerState)):
            self._complain(
                "declared", f"round {t}: server.state.{name} is not declared in ServerState: it would be lost"
            )
        for name, value in as_dict(server.state).items():
            if not isinstance(value, Tensor | bool | int | float):
                self._complain("declared", f"round {t}: ServerState.{name} is {value!r:.60}, no tensor and no number")
        self._check_types(f"after round {t}: ServerState", as_dict(server.state))

    def _check_types(self, where: str, fields: dict[str, Any]) -> None:
        wanted = self.session.problem.dtype
        for name, value in fields.items():
            if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != wanted:
                self._complain("shape", f"{where}.{name} became {value.dtype} where the model is {wanted}")

    def _check_kind(self, what: str, value: Any, start: Any) -> None:
        given, declared = as_tensor(value), as_tensor(start)
        if given.shape != declared.shape or given.dtype != declared.dtype:
            self._complain("shape", f"{what} is {given.dtype} {list(given.shape)}, declared as "
                                    f"{declared.dtype} {list(declared.shape)}")  # fmt: skip

    def _prefixed(self, server: Server) -> dict[str, Any]:
        return {f"server.state.{name}": value for name, value in copied(as_dict(server.state)).items()}

    def _of(self, cohorts: list[CohortReplies]) -> dict[str, Any]:
        named = ((k, name, value) for k, cohort in enumerate(cohorts) for name, value in cohort.fields.items())
        return {f"replies.{name} of cohort {k}": value.clone() for k, name, value in named}

    @staticmethod
    def _value(field: Any) -> Tensor:
        return field.value if isinstance(field, Message) else as_tensor(field)

    def _complain(self, about: str, text: str) -> None:
        if len(self.complaints[about]) < 3:
            self.complaints[about].append(text)


def _bytes(fields: dict[str, Any]) -> int:
    return sum(value.nbytes if isinstance(value, Tensor) else 8 for value in fields.values())


__all__ = ["Probe"]
