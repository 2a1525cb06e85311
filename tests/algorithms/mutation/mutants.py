"""Methods that are wrong on purpose, each by one plausible slip, most of them found in the original simulator.

Each is the product's own class with the least that makes it wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from algorithms.cofig import Cofig
from algorithms.dcgd import DCGD
from algorithms.diana import Diana
from algorithms.ef14 import EF14
from algorithms.fedavg import FedAvg
from algorithms.fedprox import FedProx
from algorithms.marina import Marina
from algorithms.pp_marina import PPMarina
from compressors.compressor import Compressor
from compressors.lazy import Lazy
from compressors.randk import RandK
from fl_core.client import Client
from fl_core.randomness import generator
from fl_core.replies import Replies
from fl_core.server import Server
from fl_core.state import zeros

# --- compression --------------------------------------------------------------------------------------------------


class _UnscaledRandK(RandK):
    def factor(self, d: int) -> float:
        return 1.0


class _UnscaledLazy(Lazy):
    def factor(self, d: int) -> float:
        return 1.0


def unscaled(compressor: Compressor) -> Compressor:
    """The d/K of Rand-K, or the 1/p of Lazy, forgotten."""
    if isinstance(compressor, RandK):
        return _UnscaledRandK(compressor.k)
    assert isinstance(compressor, Lazy)
    return _UnscaledLazy(compressor.p)


class DcgdOneMaskForAll(DCGD):
    """Randomness keyed without the client: all of them keep the same coordinates."""

    def local_state(self, client: Client, x0: Tensor, x: Tensor, s: Any) -> Any:
        own, client.id = client.id, 0
        reply = super().local_state(client, x0, x, s)
        client.id = own
        return reply


class DianaOneMaskForEver(Diana):
    """Randomness keyed without the round: a client keeps the same coordinates every time."""

    def local_state(self, client: Client, x0: Tensor, x: Tensor, s: Any) -> Any:
        now, client.round = client.round, 1
        reply = super().local_state(client, x0, x, s)
        client.round = now
        return reply


# --- averages -----------------------------------------------------------------------------------------------------


class DcgdSum(DCGD):
    """1/|S| forgotten."""

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        return replies.sum("m")


class DcgdOverAll(DCGD):
    """1/n for 1/|S|."""

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        return replies.sum("m") / server.n


class FedAvgGrowing(FedAvg):
    """G = +mean of Δ_i."""

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        return replies.mean("delta")


class FedProxMovingCentre(FedProx):
    """The proximal term around y itself: none."""

    def local_gradient(self, client: Client, x: Tensor, s: Any) -> Tensor:
        return client.gradient(x)


class EF14Forgets(EF14):
    """e_i stays 0: what was not sent is lost."""

    def local_state(self, client: Client, x0: Tensor, x: Tensor, s: Any) -> Any:
        reply = super().local_state(client, x0, x, s)
        client.memory.e_i = torch.zeros_like(x0)
        return reply


# --- shifts -------------------------------------------------------------------------------------------------------


class DianaWrongSign(Diana):
    """h_i -= α m_i."""

    def shift_rate(self, at: Client | Server, alpha: float | None) -> float:
        rate = super().shift_rate(at, alpha)
        return -rate if isinstance(at, Client) else rate


class DianaAlphaOne(Diana):
    """α = 1, as for an operator with ω = 0."""

    def shift_rate(self, at: Client | Server, alpha: float | None) -> float:
        return 1.0


class DianaSum(Diana):
    """h += α Σ m_i: 1/n forgotten."""

    def server_global_state(self, server: Server, replies: Replies, g: Tensor) -> Any:
        return self.ServerState(h=server.state.h + self.shift_rate(server, self.alpha) * replies.sum("m"))


class CofigMeanOverS(Cofig):
    """h += α·mean over S, as in the original: right with all clients only."""

    def server_global_state(self, server: Server, replies: Replies, g: Tensor) -> Any:
        return self.ServerState(h=server.state.h + self.shift_rate(server, self.alpha) * replies.mean("m"))


class CofigSumOverN(Cofig):
    """G = h + (1/n) Σ_S m_i."""

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        g: Tensor = server.state.h + replies.sum("m") / server.n
        return g


# --- MARINA -------------------------------------------------------------------------------------------------------


class MarinaStale(Marina):
    """x^{t-1} is the iterate after the step, as in the original: differences are 0, g stands still between syncs."""

    def server_global_state(self, server: Server, replies: Replies, g: Tensor) -> Any:
        return self.ServerState(g=g, x_prev=server.x - server.lr * server.local_step * g)


class MarinaLate(Marina):
    """x^{t-2} for x^{t-1}."""

    class ServerState(Marina.ServerState):
        older: Tensor = zeros()

    def server_global_state(self, server: Server, replies: Replies, g: Tensor) -> Any:
        before = server.received if server.round == 1 else server.state.older
        return self.ServerState(g=g, x_prev=before, older=server.received)


class MarinaOneCoin(Marina):
    """The coin keyed without the round: a run synchronises always, or never after the first."""

    def coin(self, server: Server) -> bool:
        drawn = torch.rand((), dtype=torch.float64, generator=generator(server.seed, "coin"))
        return server.round == 1 or float(drawn) < self.probability(server)


class MarinaSum(Marina):
    """g + Σ C_i(...): 1/n forgotten."""

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        g: Tensor = replies.mean("m") if self.coin(server) else server.state.g + replies.sum("m")
        return g


class MarinaSyncsSampled(Marina):
    """A synchronisation of the sampled clients only, as in the original."""

    def participants(self, server: Server, sampled: tuple[int, ...]) -> Sequence[int]:
        return range(server.n) if server.round == 1 else sampled


class PPMarinaSyncsSampled(PPMarina):
    """The same for PP-MARINA."""

    def participants(self, server: Server, sampled: tuple[int, ...]) -> Sequence[int]:
        return range(server.n) if server.round == 1 else sampled


class PPMarinaOften(PPMarina):
    """p of MARINA: r/n forgotten."""

    def probability(self, server: Server) -> float:
        return 1.0 / (1.0 + server.omega)
