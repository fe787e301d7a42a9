"""What runs on the client: `python -m bench.load WHAT JSON`. Prints what it found as JSON; fails loudly.

Latencies are in microseconds, sorted out into percentiles here; contents are compared, counts are the receiver's.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bench.batch import Receiver, SegmentingSender, Sender, content, with_room
from bench.stats import percentile

_PERCENTILES = {"p50_us": 0.5, "p90_us": 0.9, "p99_us": 0.99, "p999_us": 0.999}

# Time in which a whole exchange must have happened; else the peer hangs, and the cell has failed.
_HANG_S = 10


def exchange(address: list[Any], size: int, connections: int, seconds: float, per_s: float = 0) -> dict[str, float]:
    """Request and response on open connections, one request in flight on each; `per_s` of them, if not 0."""
    clients = [_connect(address) for _ in range(connections)]
    data = content(size)
    for client in clients:  # every path open and warm before the clock starts
        client.sendall(data)
        _receive(client, data)
    latencies = _one_by_one(clients[0], data, seconds, per_s) if connections == 1 else _at_once(clients, data, seconds)
    return _described(latencies, seconds, "per_s")


def _one_by_one(client: socket.socket, data: bytes, seconds: float, per_s: float) -> list[float]:
    latencies: list[float] = []
    now = time.perf_counter
    end = now() + seconds
    then = now()
    while then < end:
        client.send(data)
        _receive(client, data)
        after = now()
        latencies.append(after - then)
        if per_s:
            time.sleep(1 / per_s)  # so that all that is in the way goes to sleep as well
            after = now()
        then = after
    return latencies


def beside_bulk(address: list[Any], size: int, seconds: float) -> dict[str, float]:
    """Request and response on one connection, while another sends all it can."""
    bulk = _connect(address)
    stop = threading.Event()

    def send() -> None:
        data = b"s" * (1 << 18)
        while not stop.is_set():
            bulk.sendall(data)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        return exchange(address, size, 1, seconds)
    finally:
        stop.set()
        sender.join()


def fill(address: list[Any], most: int) -> dict[str, float]:
    """Open connections until one is not served within a second; then whether a new one is, when they have ended."""
    held: deque[socket.socket] = deque()
    while len(held) < most and (client := _served(address)) is not None:
        held.append(client)
    count = len(held)
    while held:
        held.popleft().close()
    return {"held": count, "serves_again": float(any(_served(address) is not None for _ in range(5)))}


def _served(address: list[Any]) -> socket.socket | None:
    client = socket.socket()
    client.settimeout(1)
    try:
        client.connect(tuple(address))
        client.send(b"x")
        if client.recv(1) == b"x":
            return client
    except OSError:
        pass
    client.close()
    return None


def _receive(client: socket.socket, data: bytes, got: bytes = b"") -> None:
    """Receive `data`, of which `got` has come already."""
    while len(got) < len(data):
        more = client.recv(len(data) - len(got))
        if not more:
            break
        got += more
    if got != data:
        raise AssertionError(f"sent {len(data)} bytes, and got back {len(got)} that differ")


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
        ready = epoll.poll(_HANG_S)
        if not ready:
            raise AssertionError(f"{len(sent)} of {len(clients)} exchanges hang")
        goes_on = after < end
        # As little as can be: what is spent here is spent on every peer alike, and pulls their ratios towards 1.
        for fd, _ in ready:
            recv, send, client = of[fd]
            got = recv(size)
            if got != data:
                _receive(client, data, got)
            after = now()
            latencies.append(after - sent.pop(fd))
            if goes_on:
                sent[fd] = after
                send(data)
    return latencies


def connect(address: list[Any], size: int, connections: int, seconds: float) -> dict[str, float]:
    """Connect, request, response, close; `connections` of them in flight."""
    data = content(size)
    latencies: list[float] = []
    now = time.perf_counter
    epoll = select.epoll()
    live: dict[int, tuple[socket.socket, float]] = {}
    end = now() + seconds

    def begin() -> None:
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        began = now()
        client.connect_ex(tuple(address))
        live[client.fileno()] = client, began
        epoll.register(client, select.EPOLLOUT)

    for _ in range(connections):
        begin()
    while live:
        ready = epoll.poll(_HANG_S)
        if not ready:
            raise AssertionError(f"{len(live)} connections hang")
        for fd, events in ready:
            client, began = live[fd]
            if not events & select.EPOLLIN:
                client.send(data)
                epoll.modify(client, select.EPOLLIN)
                continue
            client.settimeout(_HANG_S)
            _receive(client, data)
            del live[fd]
            client.close()
            latencies.append(now() - began)
            if now() < end:
                begin()
    return _described(latencies, seconds, "per_s")


def hold(address: list[Any], connections: int) -> dict[str, float]:
    """Open connections, use each once, say how many, and hold them until standard input ends."""
    held: deque[socket.socket] = deque()
    for _ in range(connections):
        client = _connect(address)
        client.sendall(b"x")
        _receive(client, b"x")
        held.append(client)
    print(json.dumps({"held": len(held)}), flush=True)
    sys.stdin.read()
    return {}


def datagrams(
    address: list[Any], size: int, flows: int, seconds: float, per_s: float, segmented: bool = False
) -> dict[str, float]:
    """Send datagrams, taking turns among the flows; as many as go if `per_s` is 0. Delivery is counted elsewhere."""
    data = content(size)
    sends: list[Callable[[], int]] = []
    for _ in range(flows):
        sock = _connect_datagrams(address)
        if flows > 1:  # one each, in turn: a plain call costs this side the least
            sends.append(partial(_send_one, sock.send, data))
        elif segmented:
            sends.append(SegmentingSender(sock, size).send)
        else:
            sends.append(partial(Sender(sock, size).send, 32))
    now = time.perf_counter
    began = now()
    end = began + seconds
    sent = 0
    while True:
        at = now()
        if at >= end:
            break
        if per_s and sent >= (at - began) * per_s:
            continue  # too early: spin, as a sleep is longer than the gap
        for send in sends:
            try:
                sent += send()
            except ConnectionRefusedError:
                continue  # nobody there yet, or a peer that lets errors through
    return {"sent": sent, "sent_per_s": sent / (now() - began)}


def _send_one(send: Callable[[bytes], int], data: bytes) -> int:
    send(data)
    return 1


def burst(address: list[Any], size: int, count: int) -> dict[str, float]:
    """Send so many datagrams at once, from one socket."""
    sender = Sender(_connect_datagrams(address), size)
    sent = 0
    while sent < count:
        sent += sender.send(count - sent)
    return {"sent": sent}


def sink(address: list[Any], size: int, seconds: float) -> dict[str, float]:
    """Send one datagram, and count what comes back, until the container's end of `seconds` and nothing more comes."""
    sock = with_room(_connect_datagrams(address))
    receiver = Receiver(sock)
    sock.send(content(size))
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    counted = [0, 0, 0]
    end = time.perf_counter() + seconds
    while (left := end + 0.1 - time.perf_counter()) > 0:
        poll.poll(1e3 * left)
        for each, value in enumerate(receiver.count()):
            counted[each] += value
    return dict(zip(("datagrams", "bytes", "damaged"), counted, strict=True))


def _connect_datagrams(address: list[Any]) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(tuple(address))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    return sock


def ping(address: list[Any], size: int, seconds: float) -> dict[str, float]:
    """Datagram and reply, one in flight."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(tuple(address))
    sock.settimeout(_HANG_S)
    data = content(size)
    sock.send(data)
    sock.recv(1 << 16)
    latencies: list[float] = []
    now = time.perf_counter
    end = now() + seconds
    then = now()
    while then < end:
        sock.send(data)
        if sock.recv(1 << 16) != data:
            raise AssertionError("a reply differs from what was sent")
        after = now()
        latencies.append(after - then)
        then = after
    return _described(latencies, seconds, "per_s")


def _connect(address: list[Any]) -> socket.socket:
    client = socket.create_connection(tuple(address), timeout=_HANG_S)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def _described(latencies: list[float], seconds: float, rate: str) -> dict[str, float]:
    if not latencies:
        raise AssertionError("not one exchange was completed")
    latencies.sort()
    found = {name: percentile(latencies, share) * 1e6 for name, share in _PERCENTILES.items()}
    return {rate: len(latencies) / seconds, **found}


if __name__ == "__main__":
    program: dict[str, Callable[..., dict[str, float]]] = {
        "exchange": exchange,
        "beside_bulk": beside_bulk,
        "fill": fill,
        "connect": connect,
        "hold": hold,
        "datagrams": datagrams,
        "burst": burst,
        "sink": sink,
        "ping": ping,
    }
    result = program[sys.argv[1]](**json.loads(sys.argv[2]))
    if result:
        print(json.dumps(result))
