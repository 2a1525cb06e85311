"""A chain of layers gives each client the bits of its own replica, without autograd; what is no chain is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fl_core import losses
from fl_core.execution.fused_batches import Batch
from fl_core.execution.fused_chain import Chain
from fl_core.execution.fused_oracle import StackedOracle
from fl_core.execution.kernels import same_bits
from fl_core.oracle import Oracle
from fl_core.regularizers import L2

CHAINS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "least squares": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 1, bias=False)), "mse"),
    "softmax": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 10)), "cross_entropy"),
    "two layers": (
        lambda: nn.Sequential(
            nn.Flatten(), nn.Sequential(nn.Linear(12, 7), nn.ReLU()), nn.Linear(7, 5, bias=False), nn.ReLU(),
            nn.Identity(), nn.Linear(5, 3),
        ),
        "cross_entropy",
    ),
}  # fmt: skip


def _never(_: int) -> torch.Generator:
    raise AssertionError("a chain draws nothing")


@pytest.mark.parametrize("shared", [False, True], ids=["own points", "one point"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("clients", [1, 3, 40])
@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_has_the_bits_of_its_clients_alone(name: str, clients: int, dtype: torch.dtype, shared: bool) -> None:
    """Values and gradients, in blocks and in one piece, with a regulariser; the chain is what has computed them."""
    build, loss = CHAINS[name]
    torch.manual_seed(0)
    oracle = Oracle(build(), losses.loss(loss), L2(0.1), dtype)
    stacked = StackedOracle(oracle)
    source = torch.Generator().manual_seed(clients)
    x = torch.randn(1 if shared else clients, oracle.d, dtype=dtype, generator=source).expand(clients, -1)
    for b in (1, 5, 17):
        inputs = torch.randn(clients, b, 3, 4, dtype=dtype, generator=source)
        drawn = torch.randint(3, (clients, b), generator=source)
        batch = Batch(range(clients), b, (inputs, drawn.to(dtype) if loss == "mse" else drawn), None)
        assert stacked.is_chain
        g, values = stacked.gradient(x, batch, [], _never)
        alone = stacked.value(x, batch, [], _never)
        assert stacked._held[clients, b, x.stride(0) == 0]
        for row in range(clients):
            expected, value = oracle.gradient(x[row], batch.pair[0][row], batch.pair[1][row])
            assert torch.equal(g[row], expected)
            assert torch.equal(values[row], value)
            assert torch.equal(alone[row], value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("outputs", [1, 2, 3, 7, 8, 10, 15, 16, 17, 33])
def test_descent_is_that_of_each_client_alone(outputs: int, dtype: torch.dtype) -> None:
    """Three steps from one point, in place from the second on: layers and biases of any size, values and all."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, outputs))
    oracle = Oracle(model, losses.cross_entropy, None, dtype)
    stacked = StackedOracle(oracle)
    x0, clients, b, lr = torch.randn(oracle.d, dtype=dtype), 9, 6, 0.3
    inputs = torch.randn(3, clients, b, 12, dtype=dtype)
    labels = torch.randint(outputs, (3, clients, b))
    x, out, costs = x0.expand(clients, -1), torch.empty(clients, oracle.d, dtype=dtype), []
    for k in range(3):
        batch = Batch(range(clients), b, (inputs[k], labels[k]), None)
        assert stacked.can_descend(x, batch)
        costs.append(stacked.descend(x, batch, lr, out))
        x = out
    values = stacked.means(torch.cat(costs)).view(3, clients)
    oracle.gradient(x0, inputs[0, 0], labels[0, 0])  # now it knows that the model lets it descend
    for row in range(clients):
        alone = x0.clone()
        assert oracle.can_descend(alone)
        for k in range(3):
            _, value = oracle.descend(alone, inputs[k, row], labels[k, row], lr)
            assert same_bits(values[k, row], value)
        assert same_bits(x[row], alone)


def test_a_regulariser_goes_the_other_way() -> None:
    """Its gradient is added to the whole of ∇: no descent in pieces."""
    oracle = Oracle(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), losses.cross_entropy, L2(0.1), torch.float32)
    batch = Batch(range(8), 4, (torch.randn(8, 4, 12), torch.randint(3, (8, 4))), None)
    assert not StackedOracle(oracle).can_descend(torch.randn(8, oracle.d), batch)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients a few at a time or all at once: the same bits, and few sizes of blocks."""
    torch.manual_seed(0)
    oracle = Oracle(nn.Sequential(nn.Flatten(), nn.Linear(12, 10)), losses.cross_entropy, None, torch.float32)
    chain = Chain.of(oracle)
    assert chain is not None
    batch = Batch(range(50), 6, (torch.randn(50, 6, 12), torch.randint(10, (50, 6))), None)
    x = torch.randn(50, oracle.d)
    whole = chain.gradient(x, batch)
    monkeypatch.setattr("fl_core.execution.fused_chain._CACHED_BYTES", 16 * batch.nbytes_each)
    assert chain.blocks(batch) == [(0, 13), (13, 26), (26, 39), (39, 50)]
    parts = chain.gradient(x, batch)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


class _Mine(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def _hooked() -> nn.Module:
    layer = nn.Linear(12, 3)
    layer.register_forward_hook(lambda module, given, found: 2 * found)
    return nn.Sequential(nn.Flatten(), layer)


def _tied() -> nn.Module:
    first, second = nn.Linear(12, 12), nn.Linear(12, 12)
    second.weight = first.weight
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second)


def _frozen() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 3))
    model[1].bias.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.Flatten(), _Mine(12, 3)),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Dropout()),
        lambda: nn.Sequential(nn.Flatten(0), nn.Linear(12, 3)),
        lambda: nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(12, 3))),
        _hooked,
        _tied,
        _frozen,
    ],
    ids=["a subclass", "dropout", "another flatten", "a parametrization", "a hook", "tied weights", "a frozen bias"],
)
def test_what_is_no_chain(build: Callable[[], nn.Module]) -> None:
    """A model that does more than its layers' classes say goes the general way."""
    assert Chain.of(Oracle(build(), losses.cross_entropy, None, torch.float32)) is None


def test_a_loss_of_her_own_is_no_chain() -> None:
    """Only our own losses have a known derivative."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    assert Chain.of(Oracle(model, nn.functional.cross_entropy, None, torch.float32)) is None


def test_soft_labels_go_the_general_way() -> None:
    """Targets that are no labels have another loss, which the chain does not know."""
    oracle = Oracle(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), losses.cross_entropy, None, torch.float64)
    stacked = StackedOracle(oracle)
    x = torch.randn(8, oracle.d, dtype=torch.float64)
    soft = torch.softmax(torch.randn(8, 5, 3, dtype=torch.float64), -1)
    batch = Batch(range(8), 5, (torch.randn(8, 5, 4, dtype=torch.float64), soft), None)
    g, _ = stacked.gradient(x, batch, [], lambda _: torch.Generator())
    assert torch.equal(g[3], oracle.gradient(x[3], batch.pair[0][3], soft[3])[0])
