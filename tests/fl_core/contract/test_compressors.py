"""The battery for compressors: ours pass, and each wrong one fails at the property it breaks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fl_core.contract import CompressorSubject, Finding, check_compressor, read_subject

HEAD = """
from collections.abc import Sequence
from dataclasses import dataclass
import numpy as np
import torch
from compressors import Compressor, Encoded
from compressors.compressor import check_payload, check_stack, from_bytes, to_bytes, value_bits

@dataclass(frozen=True)
class Halves(Compressor):
    '''Each coordinate kept, doubled, with probability p: a coin each, drawn by both sides; sent dense.'''

    p: float = 0.5

    def _mask(self, d, generators, dtype):
        {mask}

    def encode(self, x, generators):
        {check}
        value = {value}
        {after}
        raw = to_bytes(value)
        return Encoded({result}, raw.reshape(-1), (raw.shape[1],) * len(x))

    def decode(self, payload, sizes, like, generators):
        {length}
        return from_bytes(payload.reshape(len(sizes), -1), like){decoded}

    def bits(self, d, dtype=torch.float32):
        return {bits}

    def omega(self, d):
        return {omega}

    def delta(self, d):
        return {delta}
"""
RIGHT = {
    "mask": "masks = [torch.bernoulli(torch.full((d,), self.p), generator=g) for g in generators]\n"
    "        return torch.stack(masks).to(dtype)",
    "check": "check_stack(x, generators)",
    "value": "x / self.p * self._mask(x.shape[1], generators, x.dtype)",
    "after": "pass",
    "result": "value",
    "length": "check_payload(payload, sizes, like.d * value_bits(like.dtype) // 8)",
    "decoded": "",
    "bits": "d * value_bits(dtype)",
    "omega": "1 / self.p - 1",
    "delta": "None",
}
WRONG = {
    "the receiver scales again": ("encode and decode", {"decoded": " * 2"}),
    "x itself is scaled": ("encode and decode", {"value": "x.mul_(2) * self._mask(x.shape[1], generators, x.dtype)"}),
    "one mask for all clients": (
        "clients do not mix",
        {"mask": "return torch.bernoulli(torch.full((d,), self.p), generator=generators[0])"
                 ".expand(len(generators), d).to(dtype)"},
    ),
    "torch's global generator": (
        "deterministic", {"mask": "return torch.bernoulli(torch.full((len(generators), d), self.p)).to(dtype)"}),
    "a count of half the bytes": ("sizes", {"bits": "d * value_bits(dtype) / 2"}),
    "any length is decoded": ("wrong bytes", {"length": "payload = payload[: payload.size // (like.dtype.itemsize)"
                                                        " * like.dtype.itemsize]"}),
    "a division by the norm": (
        "zero vector", {"value": "x / x.norm(dim=1, keepdim=True) * x.norm(dim=1, keepdim=True)"}),
    "NaN goes through": ("not finite", {"check": "pass"}),
    "no rescaling": ("unbiased (omega)", {"value": "x * self._mask(x.shape[1], generators, x.dtype)"}),
    "an omega too small": ("unbiased (omega)", {"omega": "0.9 * (1 / self.p - 1)"}),
    "a delta it does not have": ("contraction (delta)", {"delta": "0.5"}),
    "lossless in words only": ("lossless", {"omega": "0.0"}),
}  # fmt: skip


def subject(tmp_path: Path, **parts: str) -> CompressorSubject:
    """A file with the right compressor, some of its parts replaced."""
    path = tmp_path / "halves.py"
    path.write_text(HEAD.format(**(RIGHT | parts)))
    found = read_subject(str(path))
    assert isinstance(found, CompressorSubject)
    return found


def outcomes(findings: list[Finding]) -> dict[str, str]:
    """Property -> outcome."""
    return {finding.property: finding.outcome for finding in findings}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_a_right_compressor_passes(tmp_path: Path) -> None:
    """Nothing fails; what it does not claim is skipped; its measured variance is told."""
    findings = list(check_compressor(subject(tmp_path)))
    assert outcomes(findings)["unbiased (omega)"] == "ok"
    assert outcomes(findings)["contraction (delta)"] == "skipped"
    assert "failed" not in outcomes(findings).values(), findings
    told = {finding.property: finding.text for finding in findings}
    assert "no bias seen" in told["measured"]


@pytest.mark.parametrize("wrong", WRONG)
def test_each_wrong_compressor_fails_at_the_property_it_breaks(tmp_path: Path, wrong: str) -> None:
    """And the right one does not fail there."""
    name, parts = WRONG[wrong]
    assert outcomes(list(check_compressor(subject(tmp_path), [name])))[name] != "failed"
    found = list(check_compressor(subject(tmp_path, **parts), [name]))
    assert outcomes(found)[name] == "failed", found


@pytest.mark.parametrize(("name", "sets"), [("topk", ['k="10%"']), ("qsgd", ["s=4"]), ("natural", [])])
def test_ours_keep_the_contract(name: str, sets: list[str]) -> None:
    """A biased operator, one that rarely moves a coordinate, and one without options."""
    found = read_subject(name, sets)
    assert isinstance(found, CompressorSubject)
    assert "failed" not in outcomes(list(check_compressor(found))).values()


def test_a_missing_option_is_told(tmp_path: Path) -> None:
    """Rand-K without k does not load, and the line says which option is missing."""
    found = list(check_compressor(read_subject("randk")))  # type: ignore[arg-type]
    assert [finding.outcome for finding in found] == ["failed"]
    assert '"randk" needs it' in found[0].text


def test_a_check_that_leaves_the_interpreter(tmp_path: Path) -> None:
    """sys.exit() in an operator is a failed property with its line, and the report goes on."""
    found = list(check_compressor(subject(tmp_path, after="raise SystemExit(0)")))
    assert len(found) > 5
    assert any(each.outcome == "failed" and "SystemExit: 0" in each.text for each in found)
