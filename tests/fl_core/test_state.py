"""The four records: declared as nested classes, initial values, and what of a Memory survives a round."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fl_core.algorithm import Algorithm
from fl_core.errors import PlugInError
from fl_core.state import (
    State,
    Zeros,
    as_dict,
    as_record,
    as_tensor,
    fields_of,
    initial,
    initial_values,
    recalled,
    settled,
    zeros,
)


class Kept(State):
    """A Memory with a field of every kind."""

    h: Tensor = zeros()
    square: Tensor = zeros((2, 3))
    one: Tensor = zeros(())
    rate: float = 0.1
    count: int = 3
    seen: bool = False


def start(d: int = 4, dtype: torch.dtype = torch.float32) -> Kept:
    """The initial values."""
    return initial(Kept, "Mine", d, dtype)


def test_a_subclass_is_a_record_by_being_written() -> None:
    """No decorator is needed: fields are constructor arguments, in order, those of a base first."""

    class Reply(State):
        delta: Tensor

    class Longer(Reply):
        dc: Tensor

    reply = Longer(delta=torch.ones(2), dc=torch.zeros(2))
    assert fields_of(Longer) == fields_of(reply) == ("delta", "dc")
    assert as_dict(reply)["delta"] is reply.delta
    with pytest.raises(TypeError):
        Longer(delta=torch.ones(2), other=1)  # type: ignore[call-arg]


def test_a_bare_class_is_made_the_record_it_means() -> None:
    """A nested class written without a base gets one; its fields, defaults and methods stay."""

    class Memory:
        """What is kept."""

        h: Tensor = zeros()
        count: int = 0

        def doubled(self) -> int:
            return 2 * self.count

    record: Any = as_record("Memory", Memory)
    assert issubclass(record, State)
    assert (record.__name__, record.__doc__, fields_of(record)) == ("Memory", "What is kept.", ("h", "count"))
    assert record(h=torch.ones(1), count=4).doubled() == 8
    assert as_record("Memory", record) is record


def test_a_bare_class_keeps_its_other_bases() -> None:
    """Fields that come from an ordinary base class's record stay fields."""

    class Base(State):
        delta: Tensor

    class Mixin:
        def twice(self) -> Any:
            return 2 * self.delta  # type: ignore[attr-defined]

    class Reply(Mixin, Base):
        pass

    assert as_record("Reply", Reply)(delta=torch.ones(1)).twice() == 2.0  # type: ignore[call-arg,attr-defined]

    class Bare(Mixin):
        delta: Tensor

    assert as_record("Reply", Bare)(delta=torch.ones(1)).twice() == 2.0  # type: ignore[call-arg,attr-defined]


def test_records_are_compared_by_identity() -> None:
    """Two records with equal tensors are not asked for one truth value."""
    assert start() != start()


def test_initial_values() -> None:
    """zeros() are tensors [d] of the model's type, zeros(shape) of that shape; numbers stay Python numbers."""
    record = start(5, torch.bfloat16)
    assert torch.equal(record.h, torch.zeros(5, dtype=torch.bfloat16))
    assert torch.equal(record.square, torch.zeros(2, 3, dtype=torch.bfloat16))
    assert torch.equal(record.one, torch.zeros((), dtype=torch.bfloat16))
    assert (record.rate, record.count, record.seen) == (0.1, 3, False)
    assert initial_values(Kept, "Mine")["square"] == Zeros((2, 3))
    assert start().h is not start().h, "two clients share one tensor"


@pytest.mark.parametrize("default", [None, torch.zeros(3), "zero", (0, 0)])
def test_an_initial_value_of_another_kind_is_refused(default: Any) -> None:
    """A field whose start is neither zeros() nor a number is an error that says what to write."""
    memory = type("Memory", (State,), {"__annotations__": {"h": "Tensor"}, "h": default})
    with pytest.raises(PlugInError, match=r"Mine\.Memory\.h needs an initial value: write `h: Tensor = zeros\(\)`"):
        initial_values(memory, "Mine")


def test_a_field_without_an_initial_value_is_refused() -> None:
    """A Memory must say what a client remembers before it has taken part."""

    class Memory(State):
        h: Tensor

    with pytest.raises(PlugInError, match="needs an initial value"):
        initial(Memory, "Mine", 3, torch.float32)


def test_numbers_keep_all_their_bits() -> None:
    """A Python number becomes float64, int64 or bool: 0.1 is not rounded to float32 on its way."""
    assert as_tensor(0.1).dtype == torch.float64
    assert as_tensor(0.1).item() == 0.1
    assert as_tensor(2**60 + 1).item() == 2**60 + 1
    assert as_tensor(True).dtype == torch.bool
    tensor = torch.ones(2, dtype=torch.float16)
    assert as_tensor(tensor) is tensor


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_memory_comes_back_as_it_was(dtype: torch.dtype) -> None:
    """What a client assigned is what it finds next time: tensors exact, a declared number a number of its own type."""
    memory = start(2, dtype)
    memory.h = torch.tensor([1.5, -2.0], dtype=dtype)
    memory.square, memory.one = memory.square + 0.25, torch.tensor(7.0, dtype=dtype)
    memory.rate, memory.count, memory.seen = 0.3, 2**40, True
    back = recalled(Kept, settled(memory, start(2, dtype), "Mine"), start(2, dtype))
    for name, value in as_dict(back).items():
        expected = getattr(memory, name)
        assert type(value) is type(expected)
        assert torch.equal(value, expected) if isinstance(value, Tensor) else value == expected
        assert not isinstance(value, Tensor) or value.dtype == dtype


def test_a_recalled_memory_is_the_client_s_own() -> None:
    """Changing it in place does not change what is kept at the master."""
    rows = settled(start(), start(), "Mine")
    recalled(Kept, rows, start()).h.add_(1)
    assert torch.equal(rows["h"], torch.zeros(4))


def test_a_client_without_rows_has_the_initial_values() -> None:
    """Nothing is kept yet, so what is declared holds."""
    assert as_dict(recalled(Kept, {}, start()))["rate"] == 0.1


def test_a_memory_settles_in_its_declared_types() -> None:
    """A zero-dimensional tensor in a number's place, an integer in a float's, a mask in zeros(): kept as declared."""
    memory = start(2)
    memory.rate, memory.count = torch.tensor(0.5), True  # type: ignore[assignment]
    memory.h = torch.tensor([True, False])
    kept = settled(memory, start(2), "Mine")
    assert (kept["rate"].dtype, kept["count"].dtype, kept["h"].dtype) == (torch.float64, torch.int64, torch.float32)
    assert (kept["rate"].item(), kept["count"].item(), kept["h"].tolist()) == (0.5, 1, [1.0, 0.0])


def test_a_memory_keeps_no_autograd_graph() -> None:
    """A tensor that requires a gradient is kept without it: graphs must not grow from round to round."""
    memory = start(2)
    memory.h = torch.ones(2, requires_grad=True) * 2
    assert not settled(memory, start(2), "Mine")["h"].requires_grad


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("h", torch.zeros(5), r"h starts as a torch.float32 tensor \[4\] and was given a torch.float32 tensor \[5\]"),
        ("rate", torch.zeros(4), r"rate starts as 0.1 and was given a torch.float32 tensor \[4\]"),
        ("count", 0.5, "count starts as 3 and was given 0.5"),
        ("seen", 2, "seen starts as False and was given 2"),
    ],
)
def test_a_memory_of_another_kind_is_refused(name: str, value: Any, said: str) -> None:
    """Another shape, or a number that its declared type cannot hold, is an error in the round that assigns it."""
    memory = start()
    setattr(memory, name, value)
    with pytest.raises(PlugInError, match=rf"Mine\.Memory\.{said}"):
        settled(memory, start(), "Mine")


class Declared(Algorithm):
    """A method whose Memory is written without its base."""

    class Memory:
        """One field."""

        momentum: Tensor = zeros()

    class Reply(State):
        """Two that must be given."""

        delta: Tensor
        e: float


def test_only_declared_fields_can_be_assigned() -> None:
    """A field that nobody would keep is refused where it is assigned, with the nearest; so for every record."""
    memory: Any = initial(Declared.Memory, "Declared", 2, torch.float32)  # type: ignore[type-var]
    memory.momentum = torch.ones(2)
    with pytest.raises(AttributeError, match=r'^Declared\.Memory has no field "momentun"; did you mean "momentum"\?'):
        memory.momentun = torch.ones(2)
    with pytest.raises(AttributeError, match=r'^State has no field "x" \(it declares none\)$'):
        State().x = 1  # type: ignore[attr-defined]


def test_a_record_says_what_it_was_made_without() -> None:
    """And which of the names it was given are none."""
    with pytest.raises(TypeError, match=r"^Declared\.Reply was made without e; write Declared\.Reply\(delta=…, e=…\)$"):
        Declared.Reply(delta=torch.ones(2))  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r'^Declared\.Reply has no field "detla"; did you mean "delta"\?'):
        Declared.Reply(detla=torch.ones(2), e=1.0)  # type: ignore[call-arg]


@pytest.mark.parametrize(("value", "said"), [(None, "None"), ("much", "'much'")])
def test_a_memory_field_must_be_a_number_or_a_tensor(value: Any, said: str) -> None:
    """Anything else is named, with the class and the field."""
    memory: Any = initial(Declared.Memory, "Declared", 2, torch.float32)  # type: ignore[type-var]
    start: Any = initial(Declared.Memory, "Declared", 2, torch.float32)  # type: ignore[type-var]
    memory.momentum = value
    with pytest.raises(PlugInError, match=rf"^Declared\.Memory\.momentum starts as .* and was given {said};"):
        settled(memory, start, "Declared")
