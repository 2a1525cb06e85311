"""How several runs come of one file, apart from what their keys mean."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fl_core.experiment.sweep import assign, expand, origin, over


def test_a_table_with_a_name_replaces_and_others_merge() -> None:
    """The options of one plug-in mean nothing to another; other tables are laid over key by key."""
    base = {"uplink": {"name": "randk", "k": 3}, "local": {"steps": 1, "batch_size": 2}}
    laid = over(base, {"uplink": {"name": "topk"}, "local": {"steps": 5}})
    assert laid == {"uplink": {"name": "topk"}, "local": {"steps": 5, "batch_size": 2}}
    assert over(base, {"uplink": {"k": 4}})["uplink"] == {"name": "randk", "k": 4}
    assert over({"uplink": "randk"}, {"uplink": {"k": 4}})["uplink"] == {"name": "randk", "k": 4}
    assert base == {"uplink": {"name": "randk", "k": 3}, "local": {"steps": 1, "batch_size": 2}}


@given(st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(), min_size=1, max_size=3, unique=True)))
def test_a_sweep_is_the_cartesian_product(axes: dict[str, list[int]]) -> None:
    """Every combination once, the last axis fastest, in dotted and in nested form alike."""
    nested = expand({"sweep": {"t": axes}})
    dotted = expand({"sweep": {f"t.{key}": values for key, values in axes.items()}})
    expected = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    assert [v.tables.get("t", {}) for v in nested] == expected
    assert [v.tables for v in dotted] == [v.tables for v in nested]


def test_variants_share_no_tables() -> None:
    """Changing one variant's tables changes no other's: they are copies."""
    one, two = expand({"local": {"steps": 1}, "sweep": {"seed": [1, 2]}})
    assign(one.tables, ("local", "steps"), 9)
    assert two.tables["local"] == {"steps": 1}


def test_labels_name_what_is_swept_but_not_the_seed() -> None:
    """Runs that differ in the seed alone share a label, so that plots can average over them."""
    document = {"sweep": {"seed": [1, 2], "uplink": [{"name": "randk", "k": 1}, "identity"]}}
    labels = [variant.tables["label"] for variant in expand(document)]
    assert labels == ["uplink = randk", "uplink = identity"] * 2


def test_where_a_value_came_from() -> None:
    """The sweep before the variant before the tables, and a table with a name answers for all of its keys."""
    document: dict[str, Any] = {
        "sweep": {"local": {"steps": [1, 2]}},
        "run": [{"name": "x", "uplink": {"name": "topk"}, "local": {"batch_size": 3}}],
    }
    assert origin(document, 0, ("local", "steps")) == ("sweep",)
    assert origin(document, 0, ("uplink", "k")) == ("run", "0")
    assert origin(document, 0, ("local", "batch_size")) == ("run", "0")
    assert origin(document, 0, ("local", "epochs")) == ()
    assert origin(document, 0, ("rounds",)) == ()
    assert origin(document, None, ("uplink", "k")) == ()
