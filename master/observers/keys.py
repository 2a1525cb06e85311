"""Keys of a terminal in cbreak mode, from bytes that may come in any pieces."""

from __future__ import annotations

_SEQUENCES = {
    b"\x1b[D": "left",
    b"\x1b[C": "right",
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1bOD": "left",
    b"\x1bOC": "right",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
}


class KeyReader:
    """Turns bytes into names: a character, or left, right, up, down. Other escape sequences are dropped."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, received: bytes) -> list[str]:
        """The keys that are complete now; the beginning of a sequence waits for its end."""
        data, self._rest = self._rest + received, b""
        keys: list[str] = []
        while data:
            if data[0] != 0x1B:
                keys.append(chr(data[0]))
                data = data[1:]
                continue
            length = _sequence_length(data)
            if length == 0:
                self._rest = data
                break
            name = _SEQUENCES.get(data[:length])
            if name is not None:
                keys.append(name)
            data = data[length:]
        return keys


def _sequence_length(data: bytes) -> int:
    """Bytes of the escape sequence at the start of `data`; 0 when its end is not there yet."""
    if len(data) < 2:
        return 0
    if data[1:2] == b"O":
        return 3 if len(data) >= 3 else 0
    if data[1:2] != b"[":
        return 1  # the escape key, and what follows is a key of its own
    for index in range(2, len(data)):
        if 0x40 <= data[index] <= 0x7E:
            return index + 1
    return 0
