"""Every metric in words: one line of definition, the label of an axis, and the unit of its ticks."""

from __future__ import annotations

from typing import NamedTuple


class Words(NamedTuple):
    """A metric's axis label (matplotlib's mathtext), unit and definition."""

    label: str
    unit: str
    definition: str


METRICS: dict[str, Words] = {
    "f": Words("$f(x)$", "", "the full objective, (1/n) Σ f_i(x), regulariser included"),
    "grad_norm": Words(r"$\|\nabla f(x)\|$", "", "‖∇f(x)‖₂ of the full objective (not squared)"),
    "distance": Words(r"$\|x - x^\star\|$", "", "‖x - x*‖₂, where x* is known"),
    "loss": Words("test loss", "", "mean loss on the test set"),
    "accuracy": Words("test accuracy", "", "share of the test set whose label is ranked first"),
    "accuracy_top5": Words("test accuracy (top 5)", "", "share of the test set whose label is among the first five"),
    "round": Words("round", "", "communication round; 0 is the starting point"),
    "clients": Words("participants", "", "clients that took part in the round"),
    "loss_train": Words("training loss", "", "mean loss over the samples that the participants saw in the round"),
    "direction_norm": Words(r"$\|G\|$", "", "‖G‖₂ of the direction the server took"),
    "oracle_calls": Words("sample gradients", "", "gradients of one sample computed so far, by all clients"),
    "bits_up": Words("bits sent by clients", "bit", "8 × the bytes of the replies so far, by all clients"),
    "bits_down": Words("bits sent to clients", "bit", "8 × the bytes the server sent so far, to all clients"),
    "wire_bytes_sent": Words("bytes sent to workers", "B", "bytes the master's sockets really sent so far"),
    "wire_bytes_received": Words("bytes received from workers", "B", "bytes the master's sockets really received"),
    "gpu_memory_bytes": Words("peak GPU memory", "B", "peak memory allocated on the GPU"),
    "round_s": Words("time of a round", "s", "seconds from the beginning of a round to its end"),
    "elapsed_s": Words("time", "s", "seconds spent in rounds so far"),
}


def words(metric: str) -> Words:
    """The words of a metric; of one that is not known here, its name."""
    return METRICS.get(metric, Words(metric.replace("_", " "), "", ""))
