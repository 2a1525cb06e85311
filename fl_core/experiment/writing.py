"""The resolved experiment file: every default filled in, read back as the same experiment."""

from __future__ import annotations

import tomli_w

from fl_core.experiment.schema import Experiment


def toml_of(experiment: Experiment) -> str:
    """TOML text of the experiment; the user's own files are named without a folder, as they lie beside it."""
    tables = experiment.to_dict()
    tables.pop("sources", None)
    return tomli_w.dumps(tables)
