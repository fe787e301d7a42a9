"""Whole transfers, byte for byte: 1 GiB each way and both ways at once, and 200 small ones full of pauses and ends."""

from __future__ import annotations

import contextlib
import hashlib
import random
import select
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.proxy import Proxy, before, connect
from tests.support.sockets import accept, address_of, listening, reset

GIB = 1 << 30

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


@pytest.mark.timeout(300)
def test_a_gibibyte_each_way_and_both_ways_at_once(loop_flag: str) -> None:
    with listening() as listener, before(address_of(listener), loop_flag) as proxy:
        with through(proxy, listener) as (client, backend):
            assert_whole(Sender(client, GIB), Receiver(backend))
            assert_whole(Sender(backend, GIB), Receiver(client))
        with through(proxy, listener) as (client, backend):
            up, down = (Sender(client, GIB), Receiver(backend)), (Sender(backend, GIB), Receiver(client))
            assert_whole(*up)
            assert_whole(*down)
        assert "2.15 GB up, 2.15 GB down, 2 connections" in proxy.stop()


@pytest.mark.timeout(300)
def test_two_hundred_transfers_with_pauses_and_half_closes(loop_flag: str) -> None:
    chance = random.Random(2)
    with listening() as listener, before(address_of(listener), loop_flag) as proxy:
        for round_ in range(20):
            # Ten at a time: the relay's shared buffer and pipes change hands in the middle of things.
            with contextlib.ExitStack() as stack:
                pairs = []
                for seed in range(10 * round_, 10 * round_ + 10):
                    client, backend = stack.enter_context(through(proxy, listener))
                    for source, sink in ((client, backend), (backend, client)):
                        size = int(chance.choice((0, 1, 5_000, 65_536, 200_000, 1_000_000)) * chance.uniform(0.5, 1.5))
                        pairs.append((Sender(source, size, seed), Receiver(sink, seed)))
                for sender, receiver in pairs:
                    assert_whole(sender, receiver)
        assert "200 connections" in (totals := proxy.stop())
        assert "reset" not in totals


@pytest.mark.timeout(300)
def test_a_transfer_reset_midway_never_looks_complete(loop_flag: str) -> None:
    chance = random.Random(3)
    with listening() as listener, before(address_of(listener), loop_flag) as proxy:
        for seed in range(50):
            with through(proxy, listener) as (client, backend):
                source, sink = (client, backend) if seed % 2 else (backend, client)
                size = chance.choice((1, 10_000, 65_536, 1_000_000, 8_000_000))
                sender, receiver = Sender(source, size, seed, then_reset=True), Receiver(sink, seed)
                sender.join()
                receiver.join()
                assert isinstance(receiver.failed, ConnectionResetError)
                # And what did arrive was the beginning.
                assert receiver.digest.digest() == digest_of(receiver.size)


def test_one_bulk_transfer_does_not_keep_others_waiting(loop_flag: str) -> None:
    """Fairness: while one connection moves all it can, another's exchanges go on."""
    with (
        listening() as listener,
        before(address_of(listener), loop_flag) as proxy,
        through(proxy, listener) as (bulk, bulk_backend),
        through(proxy, listener) as (client, backend),
    ):
        sender, receiver = Sender(bulk, GIB // 4), Receiver(bulk_backend)
        exchanges = 0
        while sender.is_alive():
            client.sendall(b"ping")
            assert backend.recv(10) == b"ping"
            backend.sendall(b"pong")
            assert client.recv(10) == b"pong"
            exchanges += 1
        assert_whole(sender, receiver)
        assert exchanges > 20
