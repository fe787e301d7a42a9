"""Whole transfers through a proxy: senders and receivers that check every byte and how it ends."""

from __future__ import annotations

import contextlib
import hashlib
import random
import select
import socket
import threading
from collections.abc import Iterator

from tests.support.proxy import Proxy, connect
from tests.support.sockets import accept, reset

# The contents: a block that repeats at no power of two, so that lost, doubled or misplaced chunks show.
BLOCK = random.Random(1).randbytes((1 << 20) + 7919)


def digest_of(size: int) -> bytes:
    digest = hashlib.blake2b()
    for start in range(0, size, len(BLOCK)):
        digest.update(BLOCK[: size - start])
    return digest.digest()


class Sender(threading.Thread):
    """Sends `size` bytes of BLOCK, in pieces of random sizes with random pauses, then half-closes or resets."""

    def __init__(self, sock: socket.socket, size: int, seed: int | None = None, *, then_reset: bool = False) -> None:
        super().__init__()
        self.sock, self.size, self.then_reset = sock, size, then_reset
        self.random = random.Random(seed) if seed is not None else None
        self.failed: OSError | None = None
        self.start()

    def run(self) -> None:
        try:
            sent = 0
            while sent < self.size:
                offset = sent % len(BLOCK)
                piece = memoryview(BLOCK)[offset : offset + self.size - sent]
                if self.random is not None:
                    piece = piece[: int(self.random.paretovariate(0.3)) % 100_000 + 1]
                    if self.random.random() < 0.02:
                        select.select([], [], [], self.random.random() / 100)
                self.sock.sendall(piece)
                sent += len(piece)
            if self.then_reset:
                reset(self.sock)
            else:
                self.sock.shutdown(socket.SHUT_WR)
        except OSError as exc:
            self.failed = exc


class Receiver(threading.Thread):
    """Hashes what comes until the end of the stream, at a random pace; `failed` if the end was not orderly."""

    def __init__(self, sock: socket.socket, seed: int | None = None) -> None:
        super().__init__()
        self.sock = sock
        self.random = random.Random(seed) if seed is not None else None
        self.size = 0
        self.digest = hashlib.blake2b()
        self.failed: OSError | None = None
        self.start()

    def run(self) -> None:
        try:
            while chunk := self.sock.recv(self.random.randint(1, 300_000) if self.random else 1 << 20):
                self.size += len(chunk)
                self.digest.update(chunk)
                if self.random is not None and self.random.random() < 0.02:
                    select.select([], [], [], self.random.random() / 100)
        except OSError as exc:
            self.failed = exc


def assert_whole(sender: Sender, receiver: Receiver) -> None:
    sender.join()
    receiver.join()
    assert sender.failed is None
    assert receiver.failed is None
    assert receiver.size == sender.size
    assert receiver.digest.digest() == digest_of(sender.size)


@contextlib.contextmanager
def through(proxy: Proxy, listener: socket.socket) -> Iterator[tuple[socket.socket, socket.socket]]:
    with connect(proxy) as client, accept(listener) as backend:
        yield client, backend
