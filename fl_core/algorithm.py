"""Algorithm 1, generalised FedAvg, as eight methods (Burlachenko, Horváth, Richtárik 2021, arXiv 2202.03099).

A method of federated optimisation is one file with one subclass of `Algorithm`: a frozen dataclass of
hyper-parameters, up to four nested records (`fl_core.state`), and those of the eight methods in which it differs from
FedAvg-like defaults. It is written for one client, in one thread, with flat vectors `[d]`; threads, devices and
machines are not its business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

from fl_core.state import State, as_record

if TYPE_CHECKING:
    from fl_core.client import Client
    from fl_core.replies import Replies
    from fl_core.server import Server
    from fl_core.theory.setting import Setting
    from fl_core.theory.steps import Step

RECORDS = ("ServerState", "Memory", "Broadcast", "Reply")


@dataclass(frozen=True)
class Algorithm:
    """The template. `s` is the Broadcast the client received, `x` its present point `[d]`, `x0` where it started."""

    class ServerState(State):
        """Stays on the server."""

    class Memory(State):
        """Stays with one client between its rounds."""

    class Broadcast(State):
        """Goes to the clients beside x."""

    class Reply(State):
        """Comes back from a client: tensors, or messages made by `client.compress`."""

    compressor: ClassVar[Literal["any", "unbiased", "contraction", "lossless"]] = "any"
    """What the method needs of the uplink operator; an unbiased one is scaled by 1/(1+omega) to make a contraction."""

    participation: ClassVar[Literal["any", "full"]] = "any"
    """Whether it works when only some of the clients take part in a round."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        for name in RECORDS:
            body = cls.__dict__.get(name)
            if body is not None:
                setattr(cls, name, as_record(name, body))

    # --- on the server, before the round -------------------------------------------------------------------------

    def initialize_server_state(self, x: Tensor) -> Any:
        """InitializeServerState: the ServerState before the first round; None means the declared initial values."""
        return None

    def participants(self, server: Server, sampled: tuple[int, ...]) -> Sequence[int]:
        """Who takes part in this round; by default those sampled (PP-MARINA needs everyone now and then)."""
        return sampled

    def client_state(self, server: Server, client_id: int) -> Any:
        """ClientState: what `client_id` receives beside x. A field that is equal for all travels once a worker.

        By default the fields of Broadcast that ServerState has too.
        """
        names = type(self).Broadcast.__dataclass_fields__ if hasattr(self.Broadcast, "__dataclass_fields__") else ()
        return self.Broadcast(**{name: getattr(server.state, name) for name in names})

    # --- on a client ---------------------------------------------------------------------------------------------

    def local_steps(self, client: Client, s: Any) -> int:
        """The number of local steps; by default what `[local]` says."""
        return client.steps

    def local_gradient(self, client: Client, x: Tensor, s: Any) -> Tensor:
        """LocalGradient: the direction g `[d]` of one local step at x."""
        return client.gradient(x)

    def client_opt(self, client: Client, x: Tensor, g: Tensor) -> Tensor:
        """ClientOpt: the next local point from x and g; by default the torch optimizer of `[local]`."""
        return client.optimizer.step(x, g)

    def local_state(self, client: Client, x0: Tensor, x: Tensor, s: Any) -> Any:
        """LocalState: the Reply, after the local steps went from x0 to x. May assign `client.memory`'s fields."""
        raise NotImplementedError(f"{type(self).__name__} must define local_state(self, client, x0, x, s)")

    # --- on the server, after the round --------------------------------------------------------------------------

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        """ServerGradient: G `[d]`, an estimate of the gradient (the server optimizer subtracts it)."""
        raise NotImplementedError(f"{type(self).__name__} must define server_gradient(self, server, replies)")

    def server_opt(self, server: Server, g: Tensor) -> Tensor:
        """ServerOpt: the next x `[d]` from server.x and G; by default the torch optimizer of `[server]`."""
        return server.optimizer.step(server.x, g)

    def server_global_state(self, server: Server, replies: Replies, g: Tensor) -> Any:
        """ServerGlobalState: the next ServerState. `server.x` is still the point the round started from."""
        return server.state

    # --- theory --------------------------------------------------------------------------------------------------

    def theoretical_step(self, setting: Setting) -> Step | None:
        """The step size its theorem allows, for `[server] optimizer = { lr = "theory" }`; None where there is none.

        Import `fl_core.theory` inside: it brings SciPy, which a worker never needs.
        """
        return None
