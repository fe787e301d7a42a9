"""A steady load of connections on several addresses, which notes what it is refused and what breaks."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence

from tests.support.proxy import PATIENCE_S


class Load:
    """Short connections, one after the other, and one long one with exchange after exchange, on each address."""

    def __init__(self, addresses: Sequence[tuple[str, int]]) -> None:
        self.exchanges = 0
        self.connections = 0
        self.troubles: list[str] = []
        self._lock = threading.Lock()
        self._progress = threading.Condition(self._lock)
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=work, args=(address,))
            for address in addresses
            for work in (self._short, self._long)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def await_more(self, connections: int) -> None:
        """Wait until so many further connections have been made and served."""
        with self._progress:
            wanted = self.connections + connections
            assert self._progress.wait_for(lambda: self.connections >= wanted, PATIENCE_S), self.troubles

    def _short(self, address: tuple[str, int]) -> None:
        while not self._over.is_set():
            self._converse(address, 1)

    def _long(self, address: tuple[str, int]) -> None:
        self._converse(address, None)

    def _converse(self, address: tuple[str, int], exchanges: int | None) -> None:
        """One connection; without a number of exchanges it goes on to the load's end."""
        done = 0
        try:
            with socket.create_connection(address, timeout=PATIENCE_S) as client:
                while not self._over.is_set() if exchanges is None else done < exchanges:
                    data = b"%d" % done
                    client.sendall(data)
                    if client.recv(100) != data:
                        raise ConnectionAbortedError("the answer is not the question")
                    done += 1
                client.shutdown(socket.SHUT_WR)
                if client.recv(1):
                    raise ConnectionAbortedError("more came back than was sent")
        except OSError as exc:
            with self._lock:
                self.troubles.append(f"{address} after {done} exchanges: {exc!r}")
        with self._progress:
            self.exchanges += done
            self.connections += 1
            self._progress.notify_all()


@contextlib.contextmanager
def load_on(addresses: Sequence[tuple[str, int]]) -> Iterator[Load]:
    """The load for the time of the block."""
    load = Load(addresses)
    load.start()
    try:
        yield load
    finally:
        load.stop()
