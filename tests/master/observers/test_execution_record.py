"""What machines have decided on fusing is kept with the run."""

from __future__ import annotations

from pathlib import Path

from master.events import FusingDecided, Noted
from master.observers.execution_record import ExecutionRecord, read_execution


def decided(executor: str, fused: bool, run: str = "r") -> FusingDecided:
    """At some time."""
    return FusingDecided(
        time_s=0.0, run=run, executor=executor, fused=fused, reason="it pays", fused_s=0.5, one_by_one_s=2.0
    )


def test_the_last_word_of_each_machine_is_kept(tmp_path: Path) -> None:
    """Workers of one host choose alike, whatever their ports; another run's decisions are not this one's."""
    path = tmp_path / "execution.json"
    record = ExecutionRecord(path, "r")
    for event in (
        decided("local", True),
        decided("gpu1:7000", True),
        decided("gpu1:7001", False),
        decided("gpu2:7000", True, run="s"),
        Noted(time_s=0.0, text="nothing"),
    ):
        record.observe(event)
    record.close()
    kept = read_execution(path)
    assert {machine: decision["fused"] for machine, decision in kept.items()} == {"local": True, "gpu1": False}
    assert kept["local"] == {"fused": True, "reason": "it pays", "fused_s": 0.5, "one_by_one_s": 2.0}


def test_a_file_that_is_not_legible_says_nothing(tmp_path: Path) -> None:
    """Then it is found out anew."""
    path = tmp_path / "execution.json"
    assert read_execution(path) == {}
    for content in (b"", b"[1]", b'{"local": {"fused": "perhaps"}}'):
        path.write_bytes(content)
        assert read_execution(path) == {}
