"""Request and response on connections that stay open."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from bench.load.batch import payload
from bench.load.harness import Harness
from bench.load.sockets import HANG_S, open_stream, receive
from bench.load.timed import in_turns


def exchange(
    harness: Harness, address: list[Any], size: int, connections: int, roots: Sequence[int] = (), per_s: float = 0
) -> None:
    """Request and response on open connections, one request in flight on each; `per_s` of them, if not 0."""
    clients = [open_stream(address) for _ in range(connections)]
    data = payload(size)
    for client in clients:
        client.sendall(data)
        receive(client, data)
    if connections == 1:
        in_turns(harness, partial(one_by_one, clients[0], data, per_s), roots)
    else:
        in_turns(harness, partial(_at_once, clients, data), roots)


def one_by_one(client: socket.socket, data: bytes, per_s: float, seconds: float) -> list[float]:
    latencies: list[float] = []
    now = time.perf_counter
    end = now() + seconds
    then = now()
    while then < end:
        client.send(data)
        receive(client, data)
        after = now()
        latencies.append(after - then)
        if per_s:
            time.sleep(1 / per_s)  # so that all that is in the way goes to sleep as well
            after = now()
        then = after
    return latencies


def _at_once(clients: Sequence[socket.socket], data: bytes, seconds: float) -> list[float]:
    latencies: list[float] = []
    now = time.perf_counter
    epoll = select.epoll()
    size = len(data)
    of = {client.fileno(): (client.recv, client.send, client) for client in clients}
    sent: dict[int, float] = {}
    end = now() + seconds
    after = 0.0
    for client in clients:
        epoll.register(client, select.EPOLLIN)
        sent[client.fileno()] = now()
        client.send(data)
    while sent:
        ready = epoll.poll(HANG_S)
        if not ready:
            raise AssertionError(f"{len(sent)} of {len(clients)} exchanges hang")
        goes_on = after < end
        # As little as can be: what is spent here is spent on every peer alike, and pulls their ratios towards 1.
        for fd, _ in ready:
            recv, send, client = of[fd]
            got = recv(size)
            if got != data:
                receive(client, data, got)
            after = now()
            latencies.append(after - sent.pop(fd))
            if goes_on:
                sent[fd] = after
                send(data)
    epoll.close()
    return latencies
