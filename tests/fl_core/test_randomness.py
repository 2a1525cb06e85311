"""Keys give numbers, and within a client's work all of torch's numbers come from its key."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_core.randomness import (
    ClientRandomness,
    UnkeyedDrawError,
    UnkeyedDraws,
    generator,
    global_state,
    numpy_generator,
    seed_of,
    seeded_globally,
)

CPU = torch.device("cpu")


def source() -> torch.Generator:
    """A client's generator, always the same."""
    return generator(5, 1, 2, "torch")


@pytest.mark.parametrize(
    ("key", "seed"),
    [
        ((0,), 7163381271710615482),
        ((1, "participants", 3), 14376247090595041063),
        ((1, 2, 3, "sample", 0), 8209575358324235724),
        ((7, 5, 11, "compress", 0), 1604032809414093372),
        ((2, -1, "ü"), 13719438342556851064),
    ],
)
def test_the_format_of_keys_is_pinned(key: tuple[int | str, ...], seed: int) -> None:
    """Another key format would change every run ever made: these numbers may not change unnoticed."""
    assert seed_of(*key) == seed  # type: ignore[arg-type]


def test_the_generators_of_a_key_are_pinned() -> None:
    """Neither torch's nor NumPy's numbers for a key may change unnoticed (a new version, another bit generator)."""
    assert torch.randint(1000, (5,), generator=generator(1, 2, 3, "sample", 0)).tolist() == [764, 720, 82, 523, 458]
    assert numpy_generator(1, "participants", 3).integers(1000, size=5).tolist() == [624, 989, 572, 626, 134]


def test_every_part_of_a_key_counts() -> None:
    """Order, types and boundaries of the parts all make another key; no two of these keys share a seed."""
    keys = [
        (1,),
        (1, 2),
        (2, 1),
        (1, "2"),
        ("1", 2),
        (12,),
        (1, 2, "a", "b"),
        (1, 2, "ab"),
        (1, 2, "b", "a"),
        (1, 2, 0),
    ]
    assert len({seed_of(*key) for key in keys}) == len(keys)  # type: ignore[arg-type]


def test_a_fresh_generator_each_time() -> None:
    """Asking twice for a key gives two generators at the same start, so attempts do not see each other."""
    first, second = generator(1, 2), generator(1, 2)
    torch.rand(100, generator=first)
    assert torch.equal(torch.rand(3, generator=second), torch.rand(3, generator=generator(1, 2)))


def drawn_globally() -> tuple[float, float, float]:
    """One number of each of the three global generators."""
    return float(torch.rand(())), float(np.random.rand()), random.random()


def test_seeded_globally_is_a_function_of_the_key() -> None:
    """torch's, NumPy's and Python's global generators start from the key, whatever was drawn before."""
    with seeded_globally(3, "data"):
        first = drawn_globally()
    torch.rand(10), np.random.rand(10), random.random()
    with seeded_globally(3, "data"):
        assert drawn_globally() == first
    with seeded_globally(4, "data"):
        other = drawn_globally()
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_seeded_globally_leaves_no_trace() -> None:
    """Afterwards, even after an error, all three global generators go on as if nothing had been drawn."""
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]
    with contextlib.suppress(ZeroDivisionError), seeded_globally(3, "data"):
        drawn_globally()
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # type: ignore[index]
    assert random.getstate() == states[2]


def test_seeded_globally_in_threads() -> None:
    """Two threads that initialise models at once do not take each other's numbers: one waits."""

    def build(key: int) -> list[Tensor]:
        with seeded_globally(key, "model"):
            return [torch.rand(50) for _ in range(40)]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(build, [1, 2, 1, 2, 1, 2, 1, 2]))
    assert all(torch.equal(a, b) for k, made in enumerate(found) for a, b in zip(made, found[k % 2], strict=True))
    assert not torch.equal(found[0][0], found[1][0])


P = torch.tensor([0.2, 0.5, 0.9])
CASES: dict[str, Callable[[dict[str, Any]], Tensor]] = {
    "rand": lambda g: torch.rand(3, 2, **g),
    "rand in float64": lambda g: torch.rand((4,), dtype=torch.float64, device="cpu", **g),
    "randn": lambda g: torch.randn(5, **g),
    "randint": lambda g: torch.randint(3, 90, (6,), **g),
    "randint by keyword": lambda g: torch.randint(low=3, high=90, size=(6,), **g),
    "randperm": lambda g: torch.randperm(20, **g),
    "normal of numbers": lambda g: torch.normal(1.0, 2.0, (4,), **g),
    "normal of a tensor": lambda g: torch.normal(P, 0.5, **g),
    "normal of a mean and a tensor": lambda g: torch.normal(0.5, P, **g),
    "bernoulli": lambda g: torch.bernoulli(P.repeat(9), **g),
    "the method bernoulli": lambda g: P.repeat(9).bernoulli(**g),
    "multinomial": lambda g: torch.multinomial(P, 40, replacement=True, **g),
    "poisson": lambda g: torch.poisson(30 * P, **g),
    "bernoulli_": lambda g: torch.empty(20).bernoulli_(0.4, **g),
    "bernoulli_ of a tensor": lambda g: torch.empty(3).bernoulli_(P, **g),
    "normal_": lambda g: torch.empty(4).normal_(2.0, 3.0, **g),
    "uniform_": lambda g: torch.empty(4).uniform_(-1, 1, **g),
    "exponential_": lambda g: torch.empty(4).exponential_(2.0, **g),
    "random_": lambda g: torch.empty(4).random_(0, 1000, **g),
    "geometric_": lambda g: torch.empty(9).geometric_(0.1, **g),
    "cauchy_": lambda g: torch.empty(4).cauchy_(**g),
    "log_normal_": lambda g: torch.empty(4).log_normal_(**g),
    "nn.init.uniform_": lambda g: nn.init.uniform_(torch.empty(4), -2, 2, **g),
    "nn.init.trunc_normal_": lambda g: nn.init.trunc_normal_(torch.empty(4), **g),
}


@pytest.mark.parametrize("name", CASES)
def test_a_random_function_draws_from_the_client(name: str) -> None:
    """Each gives what it gives with the client's generator passed by hand, and leaves the global one alone."""
    before = global_state(CPU)
    with ClientRandomness(source()) as randomness:
        drawn = CASES[name]({})
    assert torch.equal(drawn, CASES[name]({"generator": source()}))
    assert randomness.used
    assert torch.equal(before, global_state(CPU))


@pytest.mark.parametrize(
    ("like", "plain"),
    [
        (lambda x: torch.rand_like(x), lambda g: torch.rand(2, 3, dtype=torch.float64, generator=g)),
        (lambda x: torch.randn_like(input=x), lambda g: torch.randn(2, 3, dtype=torch.float64, generator=g)),
        (lambda x: torch.rand_like(x, dtype=torch.float32), lambda g: torch.rand(2, 3, generator=g)),
        (
            lambda x: torch.randint_like(x, 7),
            lambda g: torch.randint(7, (2, 3), dtype=torch.float64, generator=g),
        ),
        (
            lambda x: torch.randint_like(x, 3, 7, memory_format=torch.preserve_format),
            lambda g: torch.randint(3, 7, (2, 3), dtype=torch.float64, generator=g),
        ),
    ],
)
def test_the_like_functions_draw_from_the_client(
    like: Callable[[Tensor], Tensor], plain: Callable[[torch.Generator], Tensor]
) -> None:
    """rand_like, randn_like and randint_like take shape and type of their argument, and the client's numbers."""
    before = global_state(CPU)
    with ClientRandomness(source()) as randomness:
        drawn = like(torch.zeros(2, 3, dtype=torch.float64))
    expected = plain(source())
    assert drawn.dtype == expected.dtype
    assert torch.equal(drawn, expected)
    assert randomness.used
    assert torch.equal(before, global_state(CPU))


def test_in_place_functions_fill_the_tensor_itself() -> None:
    """x.normal_() returns x, filled: not a copy."""
    x = torch.zeros(5)
    with ClientRandomness(source()):
        assert x.normal_() is x
    assert x.count_nonzero() == 5


def test_a_generator_of_the_user_s_own_is_left_alone() -> None:
    """Whoever passes a generator has keyed it: its numbers are drawn, and the client's are not used up."""
    mine, theirs = generator(9), source()
    with ClientRandomness(theirs) as randomness:
        drawn = torch.rand(4, generator=mine)
    assert torch.equal(drawn, torch.rand(4, generator=generator(9)))
    assert not randomness.used
    assert torch.equal(theirs.get_state(), source().get_state())


DROPOUTS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "F.dropout": functional.dropout,
    "nn.Dropout": lambda x, p: nn.Dropout(p)(x),
    "torch.dropout": lambda x, p: torch.dropout(x, p=p, train=True),
}


@pytest.mark.parametrize("name", DROPOUTS)
def test_dropout_draws_from_the_client(name: str) -> None:
    """A share p of the values is dropped, the others are scaled by 1/(1-p): by the client's mask."""
    x, before = torch.full((100, 100), 3.0), global_state(CPU)
    with ClientRandomness(source()) as randomness:
        y = DROPOUTS[name](x, 0.25)
    mask = torch.empty(100, 100).bernoulli_(0.75, generator=source())
    assert torch.equal(y, x * (mask / 0.75))
    assert 0.23 < float((y == 0).double().mean()) < 0.27  # 0.25, within five standard deviations
    assert randomness.used
    assert torch.equal(before, global_state(CPU))


@pytest.mark.parametrize(
    ("module", "shape", "kept"),
    [
        (nn.Dropout1d(0.5), (40, 50, 7), 2),
        (nn.Dropout1d(0.5), (50, 7), 1),
        (nn.Dropout2d(0.5), (40, 50, 3, 3), 2),
        (nn.Dropout3d(0.5), (20, 30, 2, 2, 2), 2),
        (nn.Dropout3d(0.5), (50, 2, 2, 2), 1),
    ],
)
def test_channel_dropout_drops_whole_channels(module: nn.Module, shape: tuple[int, ...], kept: int) -> None:
    """Dropout1d to 3d drop or scale a channel as a whole, with and without a dimension of samples, as torch does."""
    x, before = torch.ones(shape), global_state(CPU)
    with ClientRandomness(source()):
        y = module(x)
    assert torch.equal(before, global_state(CPU))
    channels = y.reshape(*shape[:kept], -1)
    assert torch.equal(channels, channels[..., :1].expand_as(channels))
    assert set(y.unique().tolist()) == {0.0, 2.0}
    torch_s = module(x).reshape(*shape[:kept], -1)
    assert torch.equal(torch_s, torch_s[..., :1].expand_as(torch_s)), "torch itself has another idea of a channel"


@pytest.mark.parametrize(
    "drop", [lambda x: functional.dropout(x, 0.5, inplace=True), lambda x: torch.dropout_(x, 0.5, True)]
)
def test_dropout_in_place(drop: Callable[[Tensor], Tensor]) -> None:
    """The in-place forms change their argument and return it."""
    x = torch.ones(200)
    with ClientRandomness(source()):
        assert drop(x) is x
    assert set(x.tolist()) == {0.0, 2.0}


def test_dropout_outside_training() -> None:
    """In evaluation, or with p = 0, nothing is dropped and nothing is drawn; p = 1 drops all."""
    x = torch.ones(20)
    with ClientRandomness(source()) as randomness:
        assert torch.equal(nn.Dropout(0.5).eval()(x), x)
        assert torch.equal(torch.dropout(x, 0.5, False), x)
        assert torch.equal(torch.dropout(x, 0.5, train=False), x)
        assert torch.equal(functional.dropout(x, 0.0), x)
        assert not randomness.used
        assert torch.equal(functional.dropout(x, 1.0), torch.zeros(20))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dropout_in_other_types(dtype: torch.dtype) -> None:
    """Types stay as they are."""
    with ClientRandomness(source()):
        y = functional.dropout(torch.ones(100, dtype=dtype), 0.5)
    assert y.dtype == dtype
    assert set(y.tolist()) == {0.0, 2.0}


def test_the_gradient_of_dropout_is_its_mask() -> None:
    """The backward pass goes through the values that were kept, scaled alike."""
    x = torch.rand(50, requires_grad=True)
    with ClientRandomness(source()):
        y = functional.dropout(x, 0.5)
        (grad,) = torch.autograd.grad(y.sum(), [x])
    assert torch.equal(grad, (y != 0) * 2.0)


def test_dropout_is_the_same_in_one_thread_and_in_four() -> None:
    """A client's masks depend on its key alone: not on threads, their timing, or the global generator's seed."""

    def work(client: int) -> Tensor:
        layer = nn.Dropout(0.5)
        with ClientRandomness(generator(1, 1, client, "torch")):
            return torch.stack([layer(torch.rand(64)) for _ in range(30)])

    torch.manual_seed(1)
    alone = [work(i) for i in range(16)]
    torch.manual_seed(2)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, range(16)))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert not torch.equal(alone[0], alone[1])


Q = torch.ones(1, 2, 3, 4)
UNCOVERED: dict[str, Callable[[], object]] = {
    "alpha dropout": lambda: functional.alpha_dropout(torch.ones(9), 0.5, training=True),
    "feature alpha dropout": lambda: functional.feature_alpha_dropout(torch.ones(9, 2), 0.5, training=True),
    "rrelu": lambda: functional.rrelu(-torch.ones(9), training=True),
    "gumbel softmax": lambda: functional.gumbel_softmax(torch.ones(9)),
    "an LSTM's dropout": lambda: nn.LSTM(3, 4, num_layers=2, dropout=0.5)(torch.ones(5, 1, 3)),
    "a GRU's dropout": lambda: nn.GRU(3, 4, num_layers=2, dropout=0.5)(torch.ones(5, 1, 3)),
    "attention": lambda: nn.MultiheadAttention(4, 2, dropout=0.5)(*[torch.ones(3, 1, 4)] * 3),
    "fused attention": lambda: functional.scaled_dot_product_attention(Q, Q, Q, dropout_p=0.5),
    "kaiming initialisation": lambda: nn.init.kaiming_uniform_(torch.empty(3, 3)),
}


@pytest.mark.parametrize("name", UNCOVERED)
def test_what_cannot_be_keyed_is_noticed(name: str) -> None:
    """A function that draws past the client's generator raises under UnkeyedDraws, which names the operation."""
    with (
        ClientRandomness(source()),
        UnkeyedDraws(CPU),
        pytest.raises(UnkeyedDrawError, match=r"aten.*global generator"),
    ):
        UNCOVERED[name]()


@pytest.mark.parametrize("name", CASES)
def test_what_is_keyed_is_not_noticed(name: str) -> None:
    """Functions that draw from the client's generator pass."""
    with ClientRandomness(source()), UnkeyedDraws(CPU):
        CASES[name]({})


@pytest.mark.parametrize("keyed", [True, False])
def test_another_thread_s_draw_is_not_blamed_on_a_keyed_operation(keyed: bool) -> None:
    """An operation that has a generator is keyed, even if the global state moves meanwhile."""

    class Operation:
        tags = (torch.Tag.nondeterministic_seeded,)

        def __call__(self, **arguments: object) -> float:
            return float(torch.rand(()))  # as if another thread had drawn while it ran

    arguments = {"generator": source()} if keyed else {}
    expected = contextlib.nullcontext() if keyed else pytest.raises(UnkeyedDrawError)
    with expected:
        UnkeyedDraws(CPU).__torch_dispatch__(Operation(), (), (), arguments)


def test_models_that_draw_nothing_pass() -> None:
    """A model with attention and an LSTM but no dropout is not blamed, forward or backward."""
    attention, lstm, drop = nn.MultiheadAttention(4, 2), nn.LSTM(4, 4, num_layers=2), nn.Dropout(0.5)
    with ClientRandomness(source()), UnkeyedDraws(CPU):
        x = torch.ones(3, 1, 4)
        y = drop(lstm(attention(x, x, x)[0])[0])
        torch.autograd.grad(y.sum(), list(attention.parameters()), allow_unused=True)


def test_the_mode_ends_with_its_block() -> None:
    """Outside it, the global generator is what torch draws from."""
    with ClientRandomness(source()):
        torch.rand(3)
    torch.manual_seed(4)
    first = torch.rand(3)
    torch.manual_seed(4)
    assert torch.equal(first, torch.rand(3))


# --- onto a device: "meta" has no numbers, but takes no generator of the CPU either -----------------------------------

META = torch.device("meta")
ONTO: dict[str, Callable[[], Tensor]] = {
    "a function": lambda: torch.rand(3, device=META),
    "like another": lambda: torch.randn_like(torch.empty(3, device=META)),
    "in place": lambda: torch.empty(3, device=META).normal_(),
    "a leaf": lambda: torch.rand(3, device=META, requires_grad=True),
    "dropout": lambda: functional.dropout(torch.ones(3, device=META), 0.5, training=True),
}


@pytest.mark.parametrize("name", ONTO)
def test_numbers_for_a_device_are_drawn_on_the_cpu(name: str) -> None:
    """From the client's own generator; the tensor is where it was asked for."""
    client = source()
    with ClientRandomness(client) as randomness:
        drawn = ONTO[name]()
    assert (drawn.device, drawn.shape, randomness.used) == (META, (3,), True)
    assert (drawn.requires_grad, drawn.is_leaf) == (name == "a leaf", True)
    assert not torch.equal(client.get_state(), source().get_state())


def test_a_tensor_given_to_be_filled_is_the_one_that_is_filled() -> None:
    """On a device too: it comes back, in its own type and the shape asked for."""
    out = torch.empty(0, dtype=torch.float64, device=META)
    with ClientRandomness(source()):
        assert torch.rand(3, out=out) is out
    assert out.shape == (3,)


def test_a_generator_of_the_user_s_own_serves_a_device_too() -> None:
    """client.generator() is on the CPU: its numbers are drawn there, and the client's other ones are not used up."""
    mine, theirs = generator(9), source()
    with ClientRandomness(theirs) as randomness:
        drawn = torch.rand(4, generator=mine, device=META)
    assert drawn.device == META
    assert randomness.used, "without the mode it would raise: the next cohort needs it too"
    assert torch.equal(theirs.get_state(), source().get_state())
    assert not torch.equal(mine.get_state(), generator(9).get_state())


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dropout_inside_an_rnn_on_a_device_is_refused(layer: Callable[..., nn.Module], dropout: float) -> None:
    """cuDNN's state for it is nobody's generator. Without dropout, or in evaluation, there is nothing to refuse."""
    model = layer(3, 4, num_layers=2, dropout=dropout, device=META)
    inputs = torch.ones(5, 1, 3, device=META)
    with ClientRandomness(source()):
        if dropout:
            with pytest.raises(UnkeyedDrawError, match="with dropout draws from the device"):
                model(inputs)
            model.eval()
        model(inputs)
