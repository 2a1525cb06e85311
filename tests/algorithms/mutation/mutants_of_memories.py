"""More methods that are wrong on purpose: EF21, EF21-PP, SCAFFOLD, FRECON. See `mutants`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from algorithms.ef21 import EF21
from algorithms.ef21_pp import EF21PP
from algorithms.frecon import Frecon
from algorithms.scaffold import Scaffold
from fl_core.client import Client, Message
from fl_core.replies import Replies
from fl_core.server import Server
from fl_core.state import zeros

# --- error feedback -----------------------------------------------------------------------------------------------


class EF21Sum(EF21):
    """g += Σ c_i: 1/n forgotten."""

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        g: Tensor = replies.mean("c") if server.round == 1 else server.state.g + replies.sum("c")
        return g


class EF21Late(EF21):
    """G is the g of the round before."""

    def server_opt(self, server: Server, g: Tensor) -> Tensor:
        return super().server_opt(server, g if server.round == 1 else server.state.g)


class EF21PPParticipants(EF21PP):
    """G = mean over S of g_i, as in the original, for the mean over all n."""

    class Reply(EF21PP.Reply):
        g_i: Tensor = zeros()

    def local_state(self, client: Client, x0: Tensor, x: Tensor, s: Any) -> Any:
        reply = super().local_state(client, x0, x, s)
        reply.g_i = client.memory.g_i
        return reply

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        return replies.mean("g_i")


class EF21PPMean(EF21PP):
    """g += mean_S c_i: |S|/n forgotten."""

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        g: Tensor = server.state.g + replies.mean("c")
        return g


# --- SCAFFOLD -----------------------------------------------------------------------------------------------------


class ScaffoldMean(Scaffold):
    """c += mean_S C(U_i): |S|/n forgotten."""

    def server_global_state(self, server: Server, replies: Replies, g: Tensor) -> Any:
        return self.ServerState(c=server.state.c + self.shift_rate(server, None) * replies.mean("u"))


class ScaffoldForgets(Scaffold):
    """c_i stays 0, as in the original."""

    def local_state(self, client: Client, x0: Tensor, x: Tensor, s: Any) -> Any:
        reply = super().local_state(client, x0, x, s)
        client.memory.c_i = torch.zeros_like(x0)
        return reply


class ScaffoldWholeMemory(Scaffold):
    """The client keeps c_i + U_i, the server adds what came: c is not the mean of the c_i any more."""

    def local_state(self, client: Client, x0: Tensor, x: Tensor, s: Any) -> Any:
        u = client.gradient(x0) - client.memory.c_i if self.option == 1 else client.pseudo_gradient(x0, x) - s.c
        kept = client.memory.c_i + u
        reply = super().local_state(client, x0, x, s)
        client.memory.c_i = kept
        return reply


class ScaffoldWrongSign(Scaffold):
    """Local directions ∇f_i + c_i - c."""

    def local_gradient(self, client: Client, x: Tensor, s: Any) -> Tensor:
        g: Tensor = client.gradient(x) + client.memory.c_i - s.c
        return g


class ScaffoldOneMask(Scaffold):
    """The same mask for Δ_i and U_i."""

    def local_state(self, client: Client, x0: Tensor, x: Tensor, s: Any) -> Any:
        return super().local_state(_one_mask(client), x0, x, s)


# --- FRECON -------------------------------------------------------------------------------------------------------


class FreconOneMask(Frecon):
    """The same mask for q_i and u_i, as in the original."""

    def local_state(self, client: Client, x0: Tensor, x: Tensor, s: Any) -> Any:
        return super().local_state(_one_mask(client), x0, x, s)


@dataclass(frozen=True)
class FreconCurrent(Frecon):
    """u_i at x^t, as in the original."""

    u_at: Literal["previous", "current"] = "current"


class FreconMeanOverS(Frecon):
    """h += α·mean over S."""

    def server_global_state(self, server: Server, replies: Replies, g: Tensor) -> Any:
        state = super().server_global_state(server, replies, g)
        if not self.initial(server):
            state.h = server.state.h + self.shift_rate(server, self.alpha) * replies.mean("u")
        return state


class FreconStale(Frecon):
    """x^{t-1} is the iterate after the step."""

    def server_global_state(self, server: Server, replies: Replies, g: Tensor) -> Any:
        state = super().server_global_state(server, replies, g)
        state.x_prev = server.x - server.lr * server.local_step * g
        return state


def _one_mask(client: Client) -> Client:
    """The client, with every compression of the round keyed as its first."""
    compress = client.compress

    def first_call(v: Tensor) -> Message:
        client._compressions = 0
        return compress(v)

    client.compress = first_call  # type: ignore[method-assign]
    return client
