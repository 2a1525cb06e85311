"""A proxy on loopback that keeps what a worker and its master send to each other."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any


class RecordingProxy:
    """Between master and worker: passes all bytes on, unchanged; keeps what the worker says and what it hears."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.streams: list[bytearray] = []
        self.heard: list[bytearray] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def settled(self) -> list[bytes]:
        """What each connection brought, once all of them have ended."""
        for thread in self._threads[1:]:
            thread.join(30.0)
            assert not thread.is_alive(), "a connection through the proxy has not ended"
        return [bytes(stream) for stream in self.streams]

    def close(self) -> None:
        """Accept no more."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _start(self, target: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                master, _ = self._listener.accept()
            except OSError:
                return
            worker = socket.create_connection(("127.0.0.1", self._target))
            for end in (master, worker):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else small frames wait for each other
            self.streams.append(bytearray())
            self.heard.append(bytearray())
            self._start(self._join, master, worker, self.streams[-1], self.heard[-1])

    def _join(self, master: socket.socket, worker: socket.socket, kept: bytearray, heard: bytearray) -> None:
        with master, worker:
            up = threading.Thread(target=_pump, args=(master, worker, heard), daemon=True)
            up.start()
            _pump(worker, master, kept)
            up.join()


def _pump(source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            kept += data
            sink.sendall(data)
    for end, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
        with suppress(OSError):
            end.shutdown(how)
