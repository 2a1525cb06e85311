"""Numbers as people read them: short, with a unit, the same everywhere."""

from __future__ import annotations

import math


def number(value: float) -> str:
    """At most 4 significant digits; counts below 100,000 in full: 0.4123, 97, 1.2e+06, nan."""
    if -100_000 < value < 100_000 and (isinstance(value, int) or (abs(value) >= 1 and value == int(value))):
        return str(int(value))
    return f"{value:.4g}"


def scaled(value: float, unit: str = "") -> str:
    """Powers of 1000: 950, 1.25k, 12.5M, 125G; with a unit: 12.5 MB."""
    gap = " " if unit else ""
    if not math.isfinite(value):
        return f"{value}{gap}{unit}"
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 999.5 or prefix == "P":
            break
        value /= 1000
    digits = 0 if prefix == "" and value == int(value) else max(0, 2 - int(math.log10(max(abs(value), 1))))
    return f"{value:.{digits}f}{gap}{prefix}{unit}"


def duration(seconds_s: float) -> str:
    """850 ms, 4.2 s, 1:05, 2:10:00, 3d 04:00."""
    if not math.isfinite(seconds_s):
        return "–"
    if seconds_s < 1:
        return f"{seconds_s * 1000:.0f} ms"
    if seconds_s < 10:
        return f"{seconds_s:.1f} s"
    if seconds_s < 60:
        return f"{seconds_s:.0f} s"
    minutes, seconds = divmod(round(seconds_s), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def printable(text: str) -> str:
    """One line without control characters, so that no name or traceback can move the cursor."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else " " for character in text)
