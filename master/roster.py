"""The workers of `--workers`: a link to each address that is named, also in a file that changes while runs go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path

from master import events
from master.worker_link import WorkerLink
from protocol.address import parse_address
from protocol.errors import InputError

LOOK_S = 1.0
"""Between two looks at the files of addresses."""


class Roster:
    """Links for addresses; `@FILE` stands for those in a file (blanks, commas or lines between them, # comments).

    Args:
        named: what --workers says, split at its commas.
        link: makes the link to an address.
        emit: takes events; what is wrong in a file that is read again is a warning.

    Attributes:
        links: every link there ever was, for their counts of bytes.

    Raises:
        InputError: an address is none or is there twice, or a file cannot be read.
    """

    def __init__(
        self, named: Sequence[str], link: Callable[[str], WorkerLink], emit: Callable[[events.Event], None]
    ) -> None:
        self.links: list[WorkerLink] = []
        self._fixed = tuple(name for name in named if not name.startswith("@"))
        self._files = tuple(Path(name[1:]) for name in named if name.startswith("@"))
        self._link = link
        self._emit = emit
        self._by_address: dict[str, WorkerLink] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._said: str | None = None
        self._changed = asyncio.Event()
        if len(set(self._fixed)) < len(self._fixed):
            raise InputError(f"--workers {','.join(named)}: an address is there twice")
        self._wanted = self._read()

    @property
    def follows_files(self) -> bool:
        """Whether addresses may come and go: then none may be there at first."""
        return bool(self._files)

    def look_now(self) -> None:
        """Read the files again at once (SIGHUP)."""
        self._changed.set()

    async def run(self, keep: Callable[[Coroutine[None, None, None]], asyncio.Task[None]]) -> None:
        """Hold a link to each address until cancelled. `keep` runs a link for the whole time."""
        while True:
            for address in self._wanted:
                if address not in self._running:
                    self._running[address] = keep(self.link(address).run())
            for address in [address for address in self._running if address not in self._wanted]:
                await self._let_go(address)
            if not self._files:
                return
            await self._until_changed()

    def link(self, address: str) -> WorkerLink:
        """The link to it; one that was let go of is taken up again, so the worker is known as the same."""
        if address not in self._by_address:
            self._by_address[address] = self._link(address)
            self.links.append(self._by_address[address])
        return self._by_address[address]

    async def _until_changed(self) -> None:
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            try:
                wanted = await asyncio.to_thread(self._read)
            except InputError as error:
                self._warn(f"{error}; the workers stay as they are")
                continue
            self._said = None
            if wanted != self._wanted:
                self._wanted = wanted
                return

    async def _let_go(self, address: str) -> None:
        link, task = self._by_address[address], self._running.pop(address)
        was_there = link.executor is not None
        task.cancel()
        await asyncio.wait([task])
        if was_there:
            self._emit(events.WorkerLost(time_s=time.time(), name=address, reason="its address was taken out"))

    def _read(self) -> tuple[str, ...]:
        found = list(self._fixed)
        for path in self._files:
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeError) as error:
                why = error.strerror if isinstance(error, OSError) else "it is no text"
                raise InputError(f"--workers @{path} cannot be read: {why}") from None
            found += " ".join(line.partition("#")[0] for line in text.splitlines()).replace(",", " ").split()
        for address in found:
            parse_address(address)
        return tuple(dict.fromkeys(found))

    def _warn(self, text: str) -> None:
        if text != self._said:  # once, not each second
            self._said = text
            self._emit(events.Warned(time_s=time.time(), text=text))
