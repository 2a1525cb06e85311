"""Tensors of broadcasts travel once: master and worker both know what the worker holds of the last two rounds.

So x_prev of a round (MARINA, FRECON, …), which was x of the round before, and whatever did not change, is named by its
digest and not sent again. Both ends forget by the same rule, in the order of the messages on their link.
"""

from __future__ import annotations

from collections import deque

import msgspec
from torch import Tensor

from fl_core.execution import wire
from fl_core.server import Broadcast
from protocol import messages
from protocol.errors import MessageError

_KEPT = 2
"""Broadcasts whose tensors a worker keeps: it keeps those of two rounds anyway, for a task that is still running."""


class SentBroadcasts:
    """What the master has sent to one worker for one run."""

    def __init__(self) -> None:
        self._digests: deque[frozenset[str]] = deque(maxlen=_KEPT)

    def lacking(self, packed: wire.Packed) -> wire.Packed:
        """The broadcast with only those tensors that the worker lacks. Say `sent` when it goes out."""
        message, buffers = packed
        known = frozenset().union(*self._digests)
        rows = list(zip(message.tensors, message.digests, buffers, strict=True))
        held = {spec.name: digest for spec, digest, _ in rows if digest in known}
        if not held:
            return packed
        sent = [row for row in rows if row[0].name not in held]
        message = msgspec.structs.replace(
            message, tensors=[spec for spec, _, _ in sent], digests=[digest for _, digest, _ in sent], held=held
        )
        return message, [buffer for _, _, buffer in sent]

    def sent(self, packed: wire.Packed) -> None:
        """The whole broadcast counts as sent from now on."""
        self._digests.append(frozenset(packed[0].digests))


class ReceivedBroadcasts:
    """What one worker holds for one run of one link."""

    def __init__(self) -> None:
        self._tensors: deque[dict[str, Tensor]] = deque(maxlen=_KEPT)

    def unpack(self, message: messages.Broadcast, buffers: wire.Buffers) -> Broadcast:
        """The whole broadcast.

        Raises:
            MessageError: it names a tensor that is not here, or one twice.
        """
        if len(message.digests) != len(message.tensors):
            raise MessageError("a Broadcast needs one digest for each of its tensors")
        tensors = wire.tensors_of(message, buffers)
        named = {spec.name: digest for spec, digest in zip(message.tensors, message.digests, strict=True)}
        for name, digest in message.held.items():
            found = next((held[digest] for held in self._tensors if digest in held), None)
            if found is None or name in tensors:
                raise MessageError(f"a Broadcast that counts on a tensor {name} which is not here, or came with it")
            tensors[name], named[name] = found, digest
        self._tensors.append({named[name]: tensor for name, tensor in tensors.items()})
        return wire.broadcast_with(message, tensors)


__all__ = ["ReceivedBroadcasts", "SentBroadcasts"]
