"""What a run left behind, as plain records for a notebook: settings, metrics, summary, the model's tensors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import safetensors.torch
import torch

from fl_core.errors import InputError

if TYPE_CHECKING:
    import pandas

Record = dict[str, float | int]


@dataclass(frozen=True)
class RunResult:
    """One run, read from its folder.

    Attributes:
        name: of the folder, `<label>-s<seed>-<digest>`.
        status: "finished", "stopped" or "failed".
        config: the resolved experiment, table by table, as `experiment.toml` has it.
        settings: the same by dotted key: `settings["local.optimizer.lr"]`.
        metrics: one record a round, `{"round": 5, "accuracy": 0.91, …}`; what was not measured is absent.
        summary: `summary.json`: how the run ended, its last metrics, and `error` where it failed.
        folder: the run's folder; it is gone where `run` was given `runs_dir=None`.
    """

    name: str
    status: str
    config: dict[str, Any] = field(repr=False)
    settings: dict[str, Any] = field(repr=False)
    metrics: list[Record] = field(repr=False)
    summary: dict[str, Any] = field(repr=False)
    folder: Path

    @property
    def label(self) -> str:
        """The run's own label, or its algorithm's name."""
        return str(self.config.get("label") or self.settings.get("algorithm.name", ""))

    @property
    def error(self) -> str:
        """Why it failed; empty if it did not."""
        return str(self.summary.get("error", ""))

    @cached_property
    def model(self) -> dict[str, torch.Tensor]:
        """The parameters after the last round, by name: `net.load_state_dict(result.model, strict=False)`.

        Read when first asked, then kept. FileNotFoundError: the run never ended.
        """
        return safetensors.torch.load((self.folder / "model.safetensors").read_bytes())

    def series(self, metric: str) -> dict[int, float]:
        """The metric by round, where it was measured."""
        return {int(record["round"]): record[metric] for record in self.metrics if metric in record}

    def to_dataframe(self) -> pandas.DataFrame:
        """One row a round, one column a metric; NaN where one was not measured. InputError: there is no pandas."""
        return _pandas().DataFrame(self.metrics)


class Results(list[RunResult]):
    """The runs of one call, in the order of the file's sweep."""

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> RunResult: ...
    @overload
    def __getitem__(self, index: slice, /) -> Results: ...
    def __getitem__(self, index: Any, /) -> Any:
        """A run, or some of them."""
        found = super().__getitem__(index)
        return Results(found) if isinstance(index, slice) else found

    def varying(self) -> list[str]:
        """The settings, by dotted key, in which the runs differ."""
        keys = dict.fromkeys(key for result in self for key in result.settings)
        return [key for key in keys if len({repr(result.settings.get(key)) for result in self}) > 1]

    def to_dataframe(self, settings: Iterable[str] | None = None) -> pandas.DataFrame:
        """Every round of every run: columns `run`, the settings, and the metrics.

        Args:
            settings: dotted keys that become columns. By default those in which the runs differ.

        Raises:
            InputError: there is no pandas.
        """
        keys = self.varying() if settings is None else list(settings)
        rows = [
            {"run": result.name, **{key: result.settings.get(key) for key in keys}, **record}
            for result in self
            for record in result.metrics
        ]
        return _pandas().DataFrame(rows)


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise InputError("to_dataframe needs pandas: pip install 'flspan[pandas]'") from None
    return pandas


__all__ = ["Record", "Results", "RunResult"]
