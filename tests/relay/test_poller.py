"""The data path's epoll, with real sockets."""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import Callable

import pytest

from pyproxy.relay.poller import Poller


@pytest.mark.asyncio
async def test_a_number_used_again_in_the_same_batch_hears_nothing_of_the_old_one() -> None:
    poller = Poller(asyncio.get_running_loop())
    pairs = [socket.socketpair() for _ in range(2)]
    heard: list[str] = []
    done = asyncio.Event()

    def replace(other: int) -> Callable[[int], None]:
        def handle(_events: int) -> None:
            heard.append("old")
            fd = pairs[other][0].fileno()
            poller.close_socket(pairs[other][0])
            fresh = socket.socketpair()
            assert fd in (fresh[0].fileno(), fresh[1].fileno())
            for sock in fresh:
                poller.watch(sock.fileno(), select.EPOLLIN, lambda _events: heard.append("new"))
            pairs.append(fresh)
            asyncio.get_running_loop().call_soon(done.set)

        return handle

    for each, (ours, theirs) in enumerate(pairs[:2]):
        theirs.send(b"x")
        poller.watch(ours.fileno(), select.EPOLLIN | select.EPOLLET, replace(1 - each))
    await done.wait()
    await asyncio.sleep(0)
    assert heard == ["old"]
    poller.close()
    for pair in pairs:
        for sock in pair:
            sock.close()


@pytest.mark.asyncio
async def test_a_handler_that_fails_is_reported_and_others_are_heard() -> None:
    loop = asyncio.get_running_loop()
    reports: list[object] = []
    loop.set_exception_handler(lambda _loop, context: reports.append(context["exception"]))
    poller = Poller(loop)
    pairs = [socket.socketpair() for _ in range(2)]
    heard = asyncio.Event()

    def fail(_events: int) -> None:
        os.read(pairs[0][0].fileno(), 1)
        raise ZeroDivisionError

    poller.watch(pairs[0][0].fileno(), select.EPOLLIN, fail)
    poller.watch(pairs[1][0].fileno(), select.EPOLLIN | select.EPOLLET, lambda _events: heard.set())
    for _, theirs in pairs:
        theirs.send(b"x")
    await heard.wait()
    assert [type(report) for report in reports] == [ZeroDivisionError]
    poller.close()
    for pair in pairs:
        for sock in pair:
            sock.close()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="busy polling is never on with a single processor")
@pytest.mark.asyncio
async def test_a_conversation_that_never_pauses_leaves_timers_their_turn() -> None:
    """Two sockets that answer each other at once, by way of the poller itself: it always has something to do."""
    loop = asyncio.get_running_loop()
    poller = Poller(loop, 60e-6)
    one, two = socket.socketpair()
    exchanges = 0

    def answer(sock: socket.socket) -> Callable[[int], None]:
        def handle(_events: int) -> None:
            nonlocal exchanges
            exchanges += 1
            sock.send(sock.recv(1))

        return handle

    for sock in (one, two):
        poller.watch(sock.fileno(), select.EPOLLIN, answer(sock))
    one.send(b"x")
    fired = [await asyncio.sleep(0.01, number) for number in range(5)]
    assert fired == list(range(5))
    assert exchanges > 100
    poller.close()
    one.close()
    two.close()
