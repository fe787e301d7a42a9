"""Whole transfers, byte for byte: 1 GiB each way and both ways at once, and 200 small ones full of pauses and ends."""

from __future__ import annotations

import contextlib
import random

import pytest

from tests.support.proxy import before
from tests.support.sockets import address_of, listening
from tests.support.transfer import Receiver, Sender, assert_whole, digest_of, through

GIB = 1 << 30


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
        assert "2.15 GB up, 2.15 GB down, 2 connections" in proxy.totals()


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
        assert "200 connections" in (totals := proxy.totals())
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
