"""The rules of the methods, for the exact recursions: written down from the papers' update formulas (sheet, section 1).

Nothing of the product. Shifts of the server are the mean of the clients' own, which is what they must be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tests.algorithms.statistics.exact_moments import (
    Draw,
    Floats,
    Mask,
    Quadratic,
    Recursion,
    Sample,
    State,
    omega,
    shrunk,
)


def dcgd(q: Quadratic, samples: list[Sample], masks: list[Mask], gamma: float) -> Recursion:
    """x - γ mean_S C_i(∇f_i(x))."""

    def rule(z: State, draw: Draw) -> State:
        m = {i: draw.compressed(i, q.gradient(i, z["x"], z["one"])) for i in draw.S}
        return {"x": z["x"] - gamma * draw.mean(m, z["x"])}

    return Recursion(q, ("x",), rule, samples, masks)


def diana(q: Quadratic, samples: list[Sample], masks: list[Mask], gamma: float) -> Recursion:
    """G = mean_n h_i + mean_S C_i(∇f_i(x) - h_i), h_i += α C_i(...); with S < n it is COFIG with one sample."""
    alpha = 1.0 / (1.0 + omega(masks))

    def rule(z: State, draw: Draw) -> State:
        m = {i: draw.compressed(i, q.gradient(i, z["x"], z["one"]) - z["h"][i]) for i in draw.S}
        g = z["h"].mean(axis=0) + draw.mean(m, z["x"])
        h = z["h"].copy()
        for i, sent in m.items():
            h[i] += alpha * sent
        return {"x": z["x"] - gamma * g, "h": h}

    return Recursion(q, ("x",), rule, samples, masks, of_clients=("h",), watched="h")


def marina(q: Quadratic, samples: list[Sample], masks: list[Mask], gamma: float, p: float) -> Recursion:
    """g = ∇f(x) with probability p, over all n; else g + mean_S C_i(∇f_i(x) - ∇f_i(x before the last step))."""

    def rule(z: State, draw: Draw) -> State:
        x, one = z["x"], z["one"]
        if draw.coin:
            g = np.mean([q.gradient(i, x, one) for i in range(q.n)], axis=0)
        else:
            m = {i: draw.compressed(i, q.gradient(i, x, one) - q.gradient(i, z["before"], one)) for i in draw.S}
            g = z["g"] + draw.mean(m, x)
        return {"x": x - gamma * g, "before": x, "g": g}

    return Recursion(q, ("x", "before", "g"), rule, samples, masks, coin=p, first=rule, watched="g")


def ef21(q: Quadratic, samples: list[Sample], masks: list[Mask], gamma: float) -> Recursion:
    """e_i += C_i(∇f_i(x) - e_i) for i in S, G = mean over all n of e_i; round 1: e_i = ∇f_i(x0). EF21-PP too."""
    small = shrunk(masks)

    def step(z: State, e: Floats) -> State:
        return {"x": z["x"] - gamma * e.mean(axis=0), "e": e}

    def first(z: State, draw: Draw) -> State:
        return step(z, np.stack([q.gradient(i, z["x"], z["one"]) for i in range(q.n)]))

    def rule(z: State, draw: Draw) -> State:
        e = z["e"].copy()
        for i in draw.S:
            e[i] += draw.compressed(i, q.gradient(i, z["x"], z["one"]) - z["e"][i])
        return step(z, e)

    return Recursion(q, ("x",), rule, samples, small, first=first, of_clients=("e",), watched="e")


@dataclass(frozen=True)
class Local:
    """Local work: τ steps of η_l, the server's η_g; SCAFFOLD's option; FedProx's μ."""

    tau: int
    lr: float
    server_lr: float
    option: int = 2
    mu: float = 0.0


def averaging(q: Quadratic, samples: list[Sample], masks: list[Mask], local: Local) -> Recursion:
    """FedAvg, and FedNova where all clients are of one size; with μ FedProx: x + η_g mean_S C_i(y_i - x)."""

    def rule(z: State, draw: Draw) -> State:
        moved = {}
        for i in draw.S:
            y = z["x"]
            for _ in range(local.tau):
                y = y - local.lr * (q.gradient(i, y, z["one"]) + local.mu * (y - z["x"]))
            moved[i] = draw.compressed(i, y - z["x"])
        return {"x": z["x"] + local.server_lr * draw.mean(moved, z["x"])}

    return Recursion(q, ("x",), rule, samples, masks)


def ef14(q: Quadratic, samples: list[Sample], masks: list[Mask], local: Local) -> Recursion:
    """v_i = C_i(e_i + x - y_i), e_i keeps the rest, x - η_g mean_S v_i; τ = 1."""
    small = shrunk(masks)

    def rule(z: State, draw: Draw) -> State:
        e, sent = z["e"].copy(), {}
        for i in draw.S:
            due = e[i] + local.lr * q.gradient(i, z["x"], z["one"])
            sent[i] = draw.compressed(i, due)
            e[i] = due - sent[i]
        return {"x": z["x"] - local.server_lr * draw.mean(sent, z["x"]), "e": e}

    return Recursion(q, ("x",), rule, samples, small, of_clients=("e",))


def scaffold(q: Quadratic, samples: list[Sample], masks: list[Mask], local: Local) -> Recursion:
    """τ steps along ∇f_i(y) - c_i + c; c_i += α C(c_i^+ - c_i) for i in S; x + η_g mean_S C'(y_i - x)."""
    alpha = 1.0 / (1.0 + omega(masks))

    def rule(z: State, draw: Draw) -> State:
        x, one, c_i = z["x"], z["one"], z["c"].copy()
        c = z["c"].mean(axis=0)
        moved = {}
        for i in draw.S:
            y = x
            for _ in range(local.tau):
                y = y - local.lr * (q.gradient(i, y, one) - z["c"][i] + c)
            fresh = q.gradient(i, x, one) if local.option == 1 else z["c"][i] - c + (x - y) / (local.tau * local.lr)
            moved[i] = draw.compressed(i, y - x, 0)
            c_i[i] += alpha * draw.compressed(i, fresh - z["c"][i], 1)
        return {"x": x + local.server_lr * draw.mean(moved, x), "c": c_i}

    return Recursion(q, ("x",), rule, samples, masks, calls=2, of_clients=("c",), watched="c")


def frecon(q: Quadratic, samples: list[Sample], masks: list[Mask], gamma: float, participants: float) -> Recursion:
    """q_i = C(∇f_i(x) - ∇f_i(before)), u_i = C'(∇f_i(before) - h_i): two masks a client; round 1: g = ∇f(x0)."""
    alpha = 1.0 / (1.0 + omega(masks))
    lam = participants * alpha / (2.0 * q.n)

    def first(z: State, draw: Draw) -> State:
        g = np.mean([q.gradient(i, z["x"], z["one"]) for i in range(q.n)], axis=0)
        return {"x": z["x"] - gamma * g, "before": z["x"], "g": g}

    def rule(z: State, draw: Draw) -> State:
        x, one, h = z["x"], z["one"], z["h"].copy()
        change, shift = {}, {}
        for i in draw.S:
            before = q.gradient(i, z["before"], one)
            change[i] = draw.compressed(i, q.gradient(i, x, one) - before, 0)
            shift[i] = draw.compressed(i, before - z["h"][i], 1)
            h[i] += alpha * shift[i]
        g = draw.mean(change, x) + (1.0 - lam) * z["g"] + lam * (draw.mean(shift, x) + z["h"].mean(axis=0))
        return {"x": x - gamma * g, "before": x, "g": g, "h": h}

    blocks = ("x", "before", "g")
    return Recursion(q, blocks, rule, samples, masks, calls=2, first=first, of_clients=("h",), watched="h")


__all__ = ["Local", "averaging", "dcgd", "diana", "ef14", "ef21", "frecon", "marina", "scaffold"]
