"""Every model: shapes, initialisation from the seed alone; and the published parameter counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fl_core import plugins
from fl_core.errors import PlugInError

SHAPES: dict[str, tuple[int, ...]] = {"cnn": (1, 28, 28), "lstm": (20,)}


def built(name: str, seed: int = 1, **options: Any) -> nn.Module:
    """The model for ten outputs on samples it can take, as the problem builds it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = plugins.resolve("model", name)(inputs=SHAPES.get(name, (5, 7)), outputs=10, **options)
    return model


def samples(name: str, m: int) -> torch.Tensor:
    """A batch the model can take: numbers, or characters below 10 for the LSTM."""
    shape, source = (m, *SHAPES.get(name, (5, 7))), torch.Generator().manual_seed(1)
    if name == "lstm":
        return torch.randint(10, shape, generator=source, dtype=torch.uint8)
    return torch.randn(shape, generator=source)


def parameters(model: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["cnn", "linear", "logistic", "lstm", "mlp"])
def test_a_batch_becomes_one_row_of_outputs_a_sample(name: str) -> None:
    """[m, ...] to [m, outputs], for one sample as for many."""
    for m in (1, 3):
        assert built(name)(samples(name, m)).shape == (m, 10)


@pytest.mark.parametrize("name", ["cnn", "linear", "logistic", "lstm", "mlp"])
def test_the_start_is_a_function_of_the_seed(name: str) -> None:
    """Equal seeds, equal parameters: every process builds the same x^0."""
    one, two = built(name).state_dict(), built(name).state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("cnn", {}, 1_663_370),
        ("cnn", {"dropout": 0.5}, 1_663_370),
        ("cnn", {"channels": [16, 32], "hidden": 128}, 215_370),
        ("linear", {}, 35 * 10),
        ("linear", {"bias": True}, 36 * 10),
        ("logistic", {}, 36 * 10),
        ("mlp", {}, 36 * 200 + 201 * 10),
        ("mlp", {"hidden": [4, 3], "dropout": 0.1}, 36 * 4 + 5 * 3 + 4 * 10),
        ("mlp", {"hidden": []}, 36 * 10),
        ("lstm", {}, 10 * 8 + 4 * 256 * (8 + 256 + 1) + 4 * 256 * (256 + 256 + 1) + 257 * 10),
        ("lstm", {"hidden": 3, "layers": 1, "embedding": 2}, 10 * 2 + 4 * 3 * (2 + 3 + 1) + 4 * 10),
    ],
)
def test_parameter_counts(name: str, options: dict[str, Any], count: int) -> None:
    """The FedAvg paper's CNN has 1,663,370; the others have what their formula says."""
    assert parameters(built(name, **options)) == count


def test_zeros_is_zeros_and_default_is_not() -> None:
    """init = "zeros" starts at x = 0, bias included."""
    assert all(not p.any() for p in built("linear", bias=True).parameters())
    assert all(not p.any() for p in built("logistic", init="zeros").parameters())
    assert all(p.any() for p in built("linear", init="default").parameters())


def test_dropout_acts_in_training_alone() -> None:
    """Two passes differ in training mode, and agree in evaluation mode."""
    for name in ("mlp", "cnn"):
        model, x = built(name, dropout=0.5), torch.ones(2, *SHAPES.get(name, (5, 7)))
        assert not torch.equal(model.train()(x), model(x))
        assert torch.equal(model.eval()(x), model(x))


@pytest.mark.parametrize("shape", [(784,), (1, 3, 28)])
def test_a_cnn_needs_pictures(shape: tuple[int, ...]) -> None:
    """Flat or tiny samples are refused in words, not by a convolution deep inside."""
    with pytest.raises(PlugInError, match='the model "cnn" needs pictures'):
        plugins.resolve("model", "cnn")(inputs=shape, outputs=10)


def test_the_lstm_of_the_papers() -> None:
    """820,522 parameters for 90 characters (Reddi et al., 2003.00295, appendix): one bias a gate, not torch's two."""
    model = plugins.resolve("model", "lstm")(inputs=(80,), outputs=90)
    assert parameters(model) == 820_522
    biases = {name: p for name, p in model.lstm.named_parameters() if name.startswith("bias")}
    assert {name for name, p in biases.items() if p.requires_grad} == {"bias_ih_l0", "bias_ih_l1"}
    assert not any(p.any() for p in biases.values() if not p.requires_grad)


def test_the_lstm_predicts_from_what_came_last() -> None:
    """Its scores are those after the last character: they change with the order of the characters."""
    model, x = built("lstm"), samples("lstm", 2)
    assert not torch.equal(model(x), model(x.flip(1)))


def test_an_lstm_needs_sequences() -> None:
    """Pictures are refused in words."""
    with pytest.raises(PlugInError, match='the model "lstm" needs sequences of characters, not samples of 1x28x28'):
        plugins.resolve("model", "lstm")(inputs=(1, 28, 28), outputs=10)
