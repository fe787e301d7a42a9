"""Connections that carry one request each."""

from __future__ import annotations

import _socket
import select
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from bench.load.batch import payload
from bench.load.harness import Harness
from bench.load.sockets import HANG_S, receive
from bench.load.timed import WARM_SHARING_S, in_turns


def connect(harness: Harness, address: list[Any], size: int, connections: int, roots: Sequence[int] = ()) -> None:
    """Connect, request, response, close; `connections` of them in flight."""
    one_run = partial(_connections, (address[0], address[1]), payload(size), connections)
    in_turns(harness, one_run, roots, WARM_SHARING_S)


def _connections(address: tuple[str, int], data: bytes, count: int, seconds: float) -> list[float]:
    latencies: list[float] = []
    now = time.perf_counter
    epoll = select.epoll()
    live: dict[int, tuple[_socket.socket, float]] = {}
    size = len(data)
    end = now() + seconds

    def begin() -> None:
        began = now()
        client = _socket.socket()  # what socket.socket adds in Python costs as much as a system call
        # Waits for the kernel of the other end only, which is this same machine's, and not for who accepts.
        client.connect(address)
        client.send(data)
        fd = client.fileno()
        live[fd] = client, began
        epoll.register(fd, select.EPOLLIN)

    for _ in range(count):
        begin()
    while live:
        ready = epoll.poll(HANG_S)
        if not ready:
            raise AssertionError(f"{len(live)} connections hang")
        for fd, _ in ready:
            client, began = live.pop(fd)
            got = client.recv(size)
            if got != data:
                client.settimeout(HANG_S)
                receive(client, data, got)
            after = now()
            client.close()
            latencies.append(after - began)
            if after < end:
                begin()
    epoll.close()
    return latencies
