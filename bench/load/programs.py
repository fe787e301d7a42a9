"""What runs on the client. Each program is a function whose arguments and result are JSON's; the fork server calls it.

Those that stay stand ready with their connections open, one program for each peer, and take turns: as the harness says.
Latencies are in microseconds, sorted out into percentiles here; contents are compared, counts are the receiver's. The
CPU of the proxy is read here too, at both ends of what is timed, so that connecting and warming up are not counted.
"""

from __future__ import annotations

import _socket
import fcntl
import select
import socket
import sys
import termios
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import psutil

from bench import usage
from bench.load.batch import FlowsSender, Receiver, SegmentingSender, Sender, content, with_room
from bench.load.pump import DOWN, OPEN, UP, Pump
from bench.stats import percentile

_PERCENTILES = {"p50_us": 0.5, "p90_us": 0.9, "p99_us": 0.99, "p999_us": 0.999}

# Time in which a whole exchange must have happened; else the peer hangs, and the cell has failed.
_HANG_S = 5

# As long as everything goes, before a program's first turn: for caches, windows, and a proxy that adapts to its load.
_WARM_S = 0.1
# And where it may take further processes to its help, which takes pyproxy 0.3 s from when its event loop is imported.
_WARM_SHARING_S = 0.6
# At the beginning of a turn, uncounted: what slept through those of the others is awake, and no longer cold.
_SETTLE_S = 0.004


class Harness(Protocol):
    """The harness, for programs that stay until they are told to end."""

    def fileno(self) -> int:
        """Readable when there is something to `heed`."""

    def heed(self) -> str | None:
        """Wait for a question or an order; None is to be let go."""

    def say(self, found: dict[str, Any]) -> None: ...


# A program's work for so many seconds: returns the latencies that it met, in seconds.
Run = Callable[[float], list[float]]


def exchange(
    harness: Harness, address: list[Any], size: int, connections: int, roots: Sequence[int] = (), per_s: float = 0
) -> None:
    """Request and response on open connections, one request in flight on each; `per_s` of them, if not 0."""
    clients = [_connect(address) for _ in range(connections)]
    data = content(size)
    for client in clients:
        client.sendall(data)
        _receive(client, data)
    if connections == 1:
        _in_turns(harness, partial(_one_by_one, clients[0], data, per_s), roots)
    else:
        _in_turns(harness, partial(_at_once, clients, data), roots)


def _in_turns(
    harness: Harness,
    run: Run,
    roots: Sequence[int],
    warm_s: float = _WARM_S,
    clear_up: Callable[[], None] = lambda: None,
    sent: Callable[[], int] = lambda: 0,
) -> None:
    """A program's life: each order is how many seconds to run, or `figures`: of all turns together, rate, percentiles,
    of how many, the CPU of `roots` and theirs, and what has been `sent` beside them, in bytes so far. `clear_up`
    follows each run, and is not of its time.
    """
    processes = [psutil.Process(pid) for pid in roots]
    latencies: list[float] = []
    took = spent = 0.0
    beside = 0
    run(warm_s)
    clear_up()
    harness.say({})
    while (order := harness.heed()) is not None:
        if order == "figures":
            found = _sorted_out(latencies, took, spent if roots else None)
            harness.say(found | ({"bulk_bits_per_s": 8 * beside / took} if beside else {}))
            continue
        run(_SETTLE_S)
        before = usage.cpu(usage.trees(processes))
        beside -= sent()
        began = time.perf_counter()
        latencies += run(float(order))
        took += time.perf_counter() - began  # what was under way at the end of its time is counted, and waited for
        beside += sent()
        # Who has been born meanwhile counts in full.
        spent += usage.cpu(usage.trees(processes)).since(before).total
        clear_up()
        harness.say({})


def _sorted_out(latencies: list[float], took: float, spent: float | None) -> dict[str, float]:
    if not latencies:
        raise AssertionError("not one exchange was completed")
    latencies.sort()
    found = {"per_s": len(latencies) / took, "samples": len(latencies)}
    found |= {name: percentile(latencies, share) * 1e6 for name, share in _PERCENTILES.items()}
    if spent is not None:
        found["cpu_us_each"] = 1e6 * spent / len(latencies)
    return found


def _one_by_one(client: socket.socket, data: bytes, per_s: float, seconds: float) -> list[float]:
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


def beside_bulk(harness: Harness, address: list[Any], size: int, roots: Sequence[int] = ()) -> None:
    """Request and response on one connection, while another sends all it can."""
    bulk = _connect(address)
    client = _connect(address)
    data = content(size)
    sent = 0

    def run(seconds: float) -> list[float]:
        stop = threading.Event()
        failed: list[OSError] = []

        def send() -> None:
            nonlocal sent
            chunk = b"s" * (1 << 18)
            try:
                while not stop.is_set():
                    bulk.sendall(chunk)
                    sent += len(chunk)
            except OSError as exc:
                failed.append(exc)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            found = _one_by_one(client, data, 0, seconds)
        finally:
            stop.set()
            sender.join()
        if failed:
            raise failed[0]
        return found

    def clear_up() -> None:
        """What is still to be sent would meet the next one's turn."""
        while int.from_bytes(fcntl.ioctl(bulk, termios.TIOCOUTQ, bytes(4)), sys.byteorder):  # tcp(7), SIOCOUTQ
            time.sleep(1e-3)

    _in_turns(harness, run, roots, _WARM_SHARING_S, clear_up=clear_up, sent=lambda: sent)


def knock(proto: str, address: list[Any]) -> dict[str, float]:
    """One message and its answer, through a peer that has had no client yet: some load half of themselves then."""
    client = _connect(address) if proto == "tcp" else _connect_datagrams(address)
    client.settimeout(_HANG_S)
    client.send(b"x")
    if client.recv(1) != b"x":
        raise AssertionError("the first message was not answered")
    return {}


def fill(address: list[Any], most: int) -> dict[str, float]:
    """Open connections until one is not served; then whether a new one is, when they have ended."""
    held: deque[socket.socket] = deque()
    while len(held) < most and (client := _served(address)) is not None:
        held.append(client)
    count = len(held)
    while held:
        held.popleft().close()
    return {"held": count, "serves_again": float(any(_served(address) is not None for _ in range(5)))}


# A connection that is not served within this is not held.
_SERVED_S = 1


def _served(address: list[Any]) -> socket.socket | None:
    client = socket.socket()
    client.settimeout(_SERVED_S)
    try:
        client.connect(tuple(address))
        client.send(b"x")
        if client.recv(1) == b"x":
            return client
    except OSError:
        pass
    client.close()
    return None


def _receive(client: _socket.socket, data: bytes, got: bytes = b"") -> None:
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
    epoll.close()
    return latencies


def connect(harness: Harness, address: list[Any], size: int, connections: int, roots: Sequence[int] = ()) -> None:
    """Connect, request, response, close; `connections` of them in flight."""
    one_run = partial(_connections, (address[0], address[1]), content(size), connections)
    _in_turns(harness, one_run, roots, _WARM_SHARING_S)


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
        ready = epoll.poll(_HANG_S)
        if not ready:
            raise AssertionError(f"{len(live)} connections hang")
        for fd, _ in ready:
            client, began = live.pop(fd)
            got = client.recv(size)
            if got != data:
                client.settimeout(_HANG_S)
                _receive(client, data, got)
            after = now()
            client.close()
            latencies.append(after - began)
            if after < end:
                begin()
    epoll.close()
    return latencies


def hold(harness: Harness, address: list[Any], most: int) -> None:
    """Open connections, use each once, up to `most` or until one is not served; say how many, and hold them."""
    held: deque[socket.socket] = deque()
    while len(held) < most and (client := _served(address)) is not None:
        held.append(client)
    harness.say({"held": len(held)})
    harness.heed()


def bulk(harness: Harness, address: list[Any], streams: int, ways: str, key: str) -> None:
    """So many streams for each of the `ways` (`u`, `d`, `ud`), with their key for the server (bench/load/pump.py).

    Says when all are open. `go` has those that send begin, `pause` end; each order, `read` too, is answered by how much
    has come.
    """
    pump = Pump()
    opened: list[tuple[bytes, socket.socket]] = []
    for way in (UP, DOWN):
        for _ in range(streams if way.decode() in ways else 0):
            stream = _connect(address)
            stream.send(way + key.encode())
            opened.append((way, stream))
    for way, stream in opened:
        # The way is open as far as the container when something comes from there.
        if stream.recv(1) != OPEN:
            raise AssertionError("a stream was closed at once")
        if way == UP:
            pump.send_on(stream, key.encode())
        else:
            pump.receive_on(stream, key.encode())
    pump.watch(harness.fileno())
    harness.say(pump.count())
    while True:
        if pump.turn():
            if (order := harness.heed()) is None:
                return pump.end(key.encode())
            if pump.lost:
                raise AssertionError(f"{pump.lost} of {len(opened)} streams have ended by themselves")
            if order == "go":
                pump.go(key.encode())
            elif order == "pause":
                pump.pause()
            harness.say(pump.count())


def datagrams(harness: Harness, address: list[Any], size: int, sources: Sequence[str], segmented: bool = False) -> None:
    """Send datagrams, as one flow, or from each of the `sources` in turn: from `go` to `pause` as many as go; told
    `RATE SECONDS`, so many a second for that long, which is answered by how many they were. Delivery is counted
    elsewhere.
    """
    sock = _connect_datagrams(address)
    if sources:
        send = FlowsSender(sock, size, sources).send
    elif segmented:
        send = SegmentingSender(sock, size).send
    else:
        send = partial(Sender(sock, size).send, 32)
    poll = select.poll()
    poll.register(harness.fileno(), select.POLLIN)
    harness.say({})
    while (order := harness.heed()) is not None:
        if order[0].isdigit():
            per_s, seconds = map(float, order.split())
            harness.say({"sent": _paced(send, per_s, seconds)})
            continue
        harness.say({})
        while order == "go" and not poll.poll(0):
            _sent(send)


def _paced(send: Callable[[], int], per_s: float, seconds: float) -> int:
    now = time.perf_counter
    began = now()
    end = began + seconds
    sent = 0
    while (at := now()) < end:
        if sent < (at - began) * per_s:  # else spin, as a sleep is longer than the gap
            sent += _sent(send)
    return sent


def _sent(send: Callable[[], int]) -> int:
    try:
        return send()
    except ConnectionRefusedError:
        return 0  # nobody there yet, or a peer that lets errors through


def burst(address: list[Any], size: int, count: int) -> dict[str, float]:
    """Send so many datagrams at once, from one socket."""
    sender = Sender(_connect_datagrams(address), size)
    sent = 0
    while sent < count:
        sent += sender.send(count - sent)
    return {"sent": sent}


def sink(harness: Harness, address: list[Any], size: int) -> None:
    """Count what comes back: `go` sends one datagram. Each order is answered by how much has come."""
    sock = with_room(_connect_datagrams(address))
    receiver = Receiver(sock)
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(harness.fileno(), select.POLLIN)
    counted = [0, 0, 0]
    harness.say({})
    while True:
        for fd, _ in poll.poll():
            if fd == harness.fileno():
                if (order := harness.heed()) is None:
                    return
                if order == "go":
                    sock.send(content(size))
                found = dict(zip(("amount", "bytes", "damaged"), counted, strict=True))
                harness.say({**found, "at": time.perf_counter()})
                continue
            for each, value in enumerate(receiver.count()):
                counted[each] += value


def _connect_datagrams(address: list[Any]) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(tuple(address))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    return sock


def ping(harness: Harness, address: list[Any], size: int, roots: Sequence[int] = ()) -> None:
    """Datagram and reply, one in flight."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(tuple(address))
    sock.settimeout(_HANG_S)
    _in_turns(harness, partial(_pings, sock, content(size)), roots)


def _pings(sock: socket.socket, data: bytes, seconds: float) -> list[float]:
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
    return latencies


def _connect(address: list[Any]) -> socket.socket:
    client = socket.create_connection(tuple(address), timeout=_HANG_S)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


PROGRAMS: dict[str, Callable[..., dict[str, float]]] = {
    "knock": knock,
    "fill": fill,
    "burst": burst,
}

# These do, and say, what they are asked, and end when they are let go.
STAYING: dict[str, Callable[..., None]] = {
    "exchange": exchange,
    "beside_bulk": beside_bulk,
    "connect": connect,
    "ping": ping,
    "hold": hold,
    "bulk": bulk,
    "datagrams": datagrams,
    "sink": sink,
}
