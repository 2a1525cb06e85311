"""The clients' data in one process."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from fl_core.shards import Pair, Shards

X = torch.arange(20.0).reshape(10, 2)
Y = torch.arange(10)
SPLIT = [torch.tensor([3, 1]), torch.tensor([9]), torch.tensor([0, 2, 4])]


def partition(split: list[torch.Tensor] = SPLIT) -> Shards:
    """Three clients with 2, 1 and 3 of ten samples."""
    return Shards.of_partition((X, Y), split)


def clients() -> list[Pair]:
    """The same three, as they would come in clients."""
    return [(X[i], Y[i]) for i in SPLIT]


@pytest.mark.parametrize("shards", [partition(), Shards.of_clients(clients())])
def test_every_client_has_its_samples(shards: Shards) -> None:
    """A shard holds the client's samples in the given order; sizes are theirs."""
    assert (shards.n, shards.complete, [shards.size(i) for i in range(3)]) == (3, True, [2, 1, 3])
    for i, chosen in enumerate(SPLIT):
        inputs, targets = shards.shard(i)
        assert torch.equal(inputs, X[chosen])
        assert torch.equal(targets, Y[chosen])
        assert shards.has(i)


def test_shards_are_views_of_one_memory() -> None:
    """All the data lies there once: a shard is a slice of the whole."""
    shards = partition()
    whole = shards.whole()
    for part in (0, 1):
        for i in range(3):
            assert shards.shard(i)[part].untyped_storage().data_ptr() == whole[part].untyped_storage().data_ptr()
    assert whole[1].tolist() == [3, 1, 9, 0, 2, 4]


def test_sent_shards() -> None:
    """Without the data, only what was sent is there, as it was sent; complete when nothing lacks."""
    shards = Shards(3)
    assert not shards.complete
    sent = clients()
    shards.add(2, sent[2])
    assert (shards.has(2), shards.has(0), shards.size(2), shards.complete) == (True, False, 3, False)
    assert shards.shard(2)[0] is sent[2][0]
    shards.add(0, sent[0])
    shards.add(1, sent[1])
    assert shards.complete


def test_blocks_are_views_of_as_many_samples() -> None:
    """All samples in pieces of one size, without the rest, in the memory they lie in; the same views each time."""
    shards, cpu = partition(), torch.device("cpu")
    inputs, targets = shards.whole()
    blocks = shards.blocks(2, cpu)
    count = len(targets) // 2
    assert torch.equal(blocks[0].flatten(0, 1), inputs[: 2 * count])
    assert torch.equal(blocks[1].flatten(), targets[: 2 * count])
    assert blocks[0].data_ptr() == inputs.data_ptr()
    assert shards.blocks(2, cpu) is blocks
    assert shards.blocks(len(targets) + 1, cpu)[0].shape[0] == 0


def test_equal_data_has_an_equal_digest() -> None:
    """However it was put together."""
    assert partition().digest() == Shards.of_clients(clients()).digest() == partition().digest()


@pytest.mark.parametrize(
    "other",
    [
        Shards.of_partition((X, Y), [SPLIT[0], SPLIT[1], torch.tensor([0, 4, 2])]),  # another order
        Shards.of_partition((X, Y), [torch.tensor([3]), torch.tensor([1, 9]), SPLIT[2]]),  # cut elsewhere
        Shards.of_partition((X, Y), SPLIT[:2]),
        Shards.of_partition((X.double(), Y), SPLIT),
        Shards.of_partition((X, Y.int()), SPLIT),
        Shards.of_partition((X.reshape(10, 1, 2), Y), SPLIT),
        Shards.of_partition((X + torch.eye(10, 2) * 1e-6, Y), SPLIT),
        Shards.of_partition((X, Y + (Y == 9)), SPLIT),
        Shards.of_partition((torch.where(X == 0, -0.0, X), Y), SPLIT),
    ],
)
def test_any_difference_changes_the_digest(other: Shards) -> None:
    """Order, cuts, types, shapes, one value, even the sign of a zero: a worker with other data must not be believed."""
    assert other.digest() != partition().digest()


def test_a_device_holds_one_copy_for_all_threads() -> None:
    """Four that ask at once get the same tensors, of all data and of a client's that was sent."""
    sent = Shards(3)
    sent.add(1, clients()[1])
    meta, whole = torch.device("meta"), partition()
    with ThreadPoolExecutor(4) as pool:
        copies = list(pool.map(lambda _: whole.whole(meta), range(8)))
        shards = list(pool.map(lambda _: sent.shard(1, meta), range(8)))
    assert len({id(pair[0]) for pair in copies}) == len({id(pair[0]) for pair in shards}) == 1
    assert copies[0][0].device == shards[0][0].device == meta
