"""Clients' memories in a file, for those that do not fit in RAM.

Rows of one fixed size lie in a file that is mapped into memory in pieces, so the system keeps in RAM what it has room
for. A row that a snapshot needs is never written to again: the client's next memory goes to another row, and the old
one is free once the snapshot is let go. So a checkpoint needs to hold no more than who lies where (and a checksum of
every row), and a run killed at any moment finds the rows of the checkpoints that it kept as they were.
"""

from __future__ import annotations

import mmap
import os
import threading
import zlib
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path

import torch
from torch import Tensor

from fl_core.errors import RunError
from fl_core.tensors import bytes_of

_PIECE_BYTES = 16 << 20
"""The file grows, and is mapped, by about so much at a time."""

Place = tuple[int, int]
"""A row's number, and the CRC-32 of its bytes."""


class MappedMemories(MutableMapping[int, dict[str, Tensor]]):
    """client -> its fields, in a file. What is read are views: copy what shall outlive the next round.

    Args:
        path: of the file; it is made where it is not there, and written over unless `adopt` is called first.
        fields: name -> a tensor of the type and shape every client's has.
    """

    def __init__(self, path: Path, fields: Mapping[str, Tensor]) -> None:
        self.path = path
        self._fields = {name: (value.dtype, value.shape, value.nbytes) for name, value in fields.items()}
        self._row_bytes = max(8, sum(-(-nbytes // 8) * 8 for _, _, nbytes in self._fields.values()))
        self._rows_a_piece = max(1, _PIECE_BYTES // self._row_bytes)
        page = mmap.ALLOCATIONGRANULARITY
        self._piece_bytes = -(-self._rows_a_piece * self._row_bytes // page) * page
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._pieces: list[mmap.mmap] = []
        self._places: dict[int, Place] = {}
        self._snapshots: list[Snapshot] = []
        self._saved: list[Snapshot] = []
        self._free: list[int] = []
        self._end = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __contains__(self, client: object) -> bool:
        return client in self._places

    def __getitem__(self, client: int) -> dict[str, Tensor]:
        return self._views(self._places[client][0])

    def __setitem__(self, client: int, fields: dict[str, Tensor]) -> None:
        with self._lock:
            old = self._places.get(client)
            row = old[0] if old is not None and not self._is_needed(client, old) else self._new_row()
        for name, view in self._views(row).items():
            view.copy_(fields[name])
        place = (row, self._checksum(row))
        with self._lock:
            self._places[client] = place

    def __delitem__(self, client: int) -> None:
        with self._lock:
            row, _ = self._places.pop(client)
            self._let_go({row})

    def snapshot(self) -> Snapshot:
        """Who lies where now. Until it is dropped, these rows stay as they are."""
        with self._lock:
            self._snapshots.append(Snapshot(self, dict(self._places)))
            return self._snapshots[-1]

    def adopt(self, places: Mapping[int, Place], *older: Mapping[int, Place]) -> None:
        """Go on with what a snapshot of an earlier process held.

        Its rows, and those of the `older` snapshots that are kept, oldest first, stay as they are until `keep` lets go
        of them in turn. All others are free.

        Raises:
            RunError: the file has not all of these rows as they were; it is closed.
        """
        size = os.fstat(self._file).st_size
        self._end = size // self._piece_bytes * self._rows_a_piece
        for client, (row, checksum) in places.items():
            if not 0 <= row < self._end or self._checksum(row) != checksum:
                self.close()
                raise RunError(f"{self.path}: what client {client} remembered is damaged; --no-resume starts anew")
        self._places = dict(places)
        self._saved = [Snapshot(self, dict(each)) for each in (*older, places)]
        self._snapshots = self._saved.copy()
        self._free = []
        self._let_go(set(range(self._end)))

    def sync(self) -> None:
        """Return when everything written so far is on the disk. OSError: it is not."""
        for piece in list(self._pieces):
            piece.flush()
        os.fsync(self._file)

    def close(self) -> None:
        """Let go of the file. Views that somebody still holds stay good."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._pieces.clear()

    def keep(self, snapshot: Snapshot, newest: int) -> None:
        """It is saved, and of the saved ones only so many are kept."""
        self._saved.append(snapshot)
        while len(self._saved) > newest:
            self.drop(self._saved.pop(0))

    def drop(self, snapshot: Snapshot) -> None:
        """Its rows may be written to again."""
        with self._lock:
            if snapshot in self._snapshots:
                self._snapshots.remove(snapshot)
                self._let_go({row for row, _ in snapshot.places.values()})

    def _let_go(self, rows: set[int]) -> None:
        for places in (self._places, *(each.places for each in self._snapshots)):
            rows -= {row for row, _ in places.values()}
        self._free.extend(sorted(rows, reverse=True))

    def _is_needed(self, client: int, place: Place) -> bool:
        return any(each.places.get(client) == place for each in self._snapshots)

    def _new_row(self) -> int:
        if self._free:
            return self._free.pop()
        self._end += 1
        return self._end - 1

    def _views(self, row: int) -> dict[str, Tensor]:
        piece, at = self._piece(row // self._rows_a_piece), (row % self._rows_a_piece) * self._row_bytes
        found = {}
        for name, (dtype, shape, nbytes) in self._fields.items():
            count = nbytes // dtype.itemsize
            view = (
                torch.frombuffer(piece, dtype=dtype, count=count, offset=at) if count else torch.empty(0, dtype=dtype)
            )
            found[name] = view.view(shape)
            at += -(-nbytes // 8) * 8
        return found

    def _piece(self, number: int) -> mmap.mmap:
        while number >= len(self._pieces):
            begin = len(self._pieces) * self._piece_bytes
            if os.fstat(self._file).st_size < begin + self._piece_bytes:
                # Asked for, not left sparse: a write to a page that the disk has no room for would kill the process.
                try:
                    os.posix_fallocate(self._file, begin, self._piece_bytes)
                except OSError as error:
                    raise RunError(f"{self.path}: no room for what clients remember: {error}") from error
            self._pieces.append(mmap.mmap(self._file, self._piece_bytes, offset=begin))
        return self._pieces[number]

    def _checksum(self, row: int) -> int:
        value = 0
        for view in self._views(row).values():
            value = zlib.crc32(bytes_of(view).data, value)
        return value


class Snapshot:
    """Rows that stay as they are.

    Attributes:
        places: client -> row and checksum.
    """

    def __init__(self, memories: MappedMemories, places: dict[int, Place]) -> None:
        self.places = places
        self._memories = memories

    def sync(self) -> None:
        """Return when they are on the disk."""
        self._memories.sync()

    def keep(self, newest: int) -> None:
        """What says where they are is saved, and of those saved only so many are kept: older ones are dropped."""
        self._memories.keep(self, newest)

    def drop(self) -> None:
        """They are not needed any more."""
        self._memories.drop(self)


__all__ = ["MappedMemories", "Place", "Snapshot"]
