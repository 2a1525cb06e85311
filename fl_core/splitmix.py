"""Random numbers of many clients at once, each client's a function of its own key: which samples a client draws.

SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, figure 17): the j-th
number of the stream that starts from s is mix(s + j γ), so any number of any stream is found by itself, and NumPy finds
those of a whole cohort in a dozen operations. A generator seeded for each client takes 5 µs a client instead.

A purpose's stream is seeded by its key, as `fl_core.randomness.seed_of` hashes it; client i's own stream starts from
the number i + 1 of that one.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from fl_core.randomness import Key, seed_of

Words = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio, made odd: multiples of it are all different."""
_FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_ALL = (1 << 64) - 1
_SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)


def streams(clients: Ints, seed: int, round: int, *purpose: Key) -> Words:
    """Where each client's stream for this purpose starts, `[n]`."""
    head = _head(seed, round, *purpose)
    if len(clients) == 1:  # in Python's own numbers: NumPy takes a microsecond an operation, however short
        return np.array([_mixed_one((int(clients[0]) + 1) * int(_GAMMA) + head)], np.uint64)
    return _mixed((clients.astype(np.uint64) + np.uint64(1)) * _GAMMA + np.uint64(head))


def numbers(starts: Words, count: int) -> Words:
    """The first `count` numbers of each stream, `[n, count]`, uniform on 0 … 2^64 - 1."""
    return _mixed(starts[:, None] + _steps(count))


def picks(starts: Words, m: int, count: int) -> Ints:
    """`count` of the numbers 0 … m-1 for each stream, with replacement, `[n, count]`; uniform but for m / 2^64."""
    found: Ints = (numbers(starts, count) % np.uint64(m)).astype(np.int64)
    return found


def permutations(starts: Words, m: int) -> Ints:
    """A permutation of 0 … m-1 for each stream, `[n, m]`: the positions in the order of their random numbers."""
    return _sorted(numbers(starts, m), m)


def ragged_permutations(starts: Words, sizes: Ints) -> Ints:
    """The permutation of 0 … m_i - 1 for each stream i, one after the other, `[Σ m_i]`."""
    found = np.empty(int(sizes.sum()), np.int64)
    begins = np.cumsum(sizes) - sizes
    classes = np.frexp(sizes - 1)[1]  # the bits that a position needs
    for bits in np.unique(classes).tolist():
        rows = np.flatnonzero(classes == bits)
        m = sizes[rows]
        widest = int(m.max())
        inside = np.arange(widest) < m[:, None]
        words = numbers(starts[rows], widest)
        # What is past a client's own ends up last.
        ordered = _sorted(np.where(inside, words, ~np.uint64(0)), widest)
        found[(begins[rows, None] + np.arange(widest))[inside]] = ordered[inside]
    return found


def _sorted(words: Words, m: int) -> Ints:
    """The positions of each row's words, ascending; the lowest bits of the words make room for them.

    So no two are equal, the order is no matter of how NumPy sorts, and sorting values is faster than finding an order.
    Of 10^6 positions each still has 44 random bits.
    """
    mask = np.uint64((1 << (m - 1).bit_length()) - 1)
    words &= ~mask
    words |= _FIRST[:m] if m <= len(_FIRST) else np.arange(m, dtype=np.uint64)
    words.sort(1)
    words &= mask
    return words.view(np.int64)


_FIRST = np.arange(4096, dtype=np.uint64)
_FIRST_STEPS = (_FIRST + np.uint64(1)) * _GAMMA


def _steps(count: int) -> Words:
    """γ, 2γ, …: not to be written to."""
    return _FIRST_STEPS[:count] if count <= len(_FIRST) else np.arange(1, count + 1, dtype=np.uint64) * _GAMMA


_head = functools.lru_cache(maxsize=256, typed=True)(seed_of)
"""Clients that run one by one ask for the same start of a purpose, one after the other."""


def _mixed_one(z: int) -> int:
    """`_mixed` of one number, modulo 2^64."""
    z &= _ALL
    z = (z ^ z >> 30) * int(_FACTORS[0]) & _ALL
    z = (z ^ z >> 27) * int(_FACTORS[1]) & _ALL
    return z ^ z >> 31


def _mixed(z: Words) -> Words:
    """The finaliser of SplitMix64, a bijection; z is written over."""
    part = z >> _SHIFTS[0]
    z ^= part
    z *= _FACTORS[0]
    np.right_shift(z, _SHIFTS[1], out=part)
    z ^= part
    z *= _FACTORS[1]
    np.right_shift(z, _SHIFTS[2], out=part)
    z ^= part
    return z
