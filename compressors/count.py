"""`k = 10` or `k = "10%"`: how many coordinates (or ranks) an operator keeps."""

from __future__ import annotations

from fractions import Fraction

from compressors.compressor import CompressorOptionError


def check_count(operator: str, k: object) -> None:
    """Raise CompressorOptionError unless k is an integer >= 1 or a percentage in (0, 100]."""
    if isinstance(k, str):
        _percentage(operator, k)
    elif isinstance(k, bool) or not isinstance(k, int):
        hint = f' (did you mean "{100 * k:g}%"?)' if isinstance(k, float) and 0 < k < 1 else ""
        raise CompressorOptionError(f'{operator}: k = {k!r} must be an integer >= 1 or a percentage like "10%"{hint}')
    elif k < 1:
        raise CompressorOptionError(f"{operator}: k = {k} must be at least 1")


def resolve_count(operator: str, k: int | str, total: int) -> int:
    """K out of `total`: the integer clipped to `total`, or max(1, ceil(percent * total / 100)) exactly.

    Rational arithmetic, because in floats 7 % of 100 is 7.000000000000001 and rounds up to 8.
    """
    if isinstance(k, int):
        return min(k, total)
    share = _percentage(operator, k) * total / 100
    return max(1, -(-share.numerator // share.denominator))


def _percentage(operator: str, k: str) -> Fraction:
    text = k.strip()
    try:
        percent = Fraction(text.removesuffix("%").strip()) if text.endswith("%") else None
    except (ValueError, ZeroDivisionError):
        percent = None
    if percent is None or not 0 < percent <= 100:
        raise CompressorOptionError(
            f'{operator}: k = "{k}" must be a percentage in (0, 100] like "10%", or an integer without quotes'
        )
    return percent
