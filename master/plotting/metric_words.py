"""Every metric in words: one line of definition, the label of an axis, and the unit of its ticks."""

from __future__ import annotations

from typing import NamedTuple

from master.plotting.derived import Derived


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
    "client_f": Words("$f_i(x)$", "", "f_i(x) of every client: client_f_min, _q10, _q50, _q90, _max"),
    "client_grad_norm": Words(
        r"$\|\nabla f_i(x)\|$", "", "‖∇f_i(x)‖₂ of every client: client_grad_norm_min, _q10, _q50, _q90, _max"
    ),
    "client_accuracy": Words(
        "client accuracy",
        "",
        "share of a client's samples ranked first: client_accuracy_min, …, _max",
    ),
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


_QUANTILES = {"min": "least", "q10": "10 % quantile", "q50": "median", "q90": "90 % quantile", "max": "largest"}


def is_share(metric: str) -> bool:
    """Whether it is a share of 1, as accuracy is: decades say nothing about it."""
    return "accuracy" in Derived.of(metric).base


def words(metric: str) -> Words:
    """The words of a metric, derived ones too; of one that is not known here, its name."""
    if metric in METRICS:
        return METRICS[metric]
    base, less, is_squared = Derived.of(metric)
    if less or is_squared:
        return _derived(words(base), less, is_squared)
    base, _, which = metric.rpartition("_")
    if base in METRICS and which in _QUANTILES:
        return Words(f"{METRICS[base].label}, {_QUANTILES[which]}", "", f"{_QUANTILES[which]} over the clients")
    return Words(metric.replace("_", " "), "", "")


def _derived(base: Words, less: str, is_squared: bool) -> Words:
    taken = r"$-\ f^\star$" if less == "f*" else f"\N{MINUS SIGN} {less}"
    label = f"{base.label} {taken}" if less else base.label
    if is_squared:
        label = f"{label[:-1]}^2$" if label.endswith("$") and not less else f"({label})²"
    return Words(label, f"{base.unit}²" if base.unit and is_squared else base.unit, base.definition)
