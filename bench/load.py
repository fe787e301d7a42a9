"""What runs on the client. Each program is a function whose arguments and result are JSON's; bench/forks.py calls it.

Latencies are in microseconds, sorted out into percentiles here; contents are compared, counts are the receiver's. The
CPU of the proxy is read here too, at both ends of what is timed, so that connecting and warming up are not counted.
"""

from __future__ import annotations

import _socket
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import psutil

from bench import usage
from bench.batch import Receiver, SegmentingSender, Sender, content, with_room
from bench.bulk import OPEN, UP, Pump
from bench.stats import percentile

_PERCENTILES = {"p50_us": 0.5, "p90_us": 0.9, "p99_us": 0.99, "p999_us": 0.999}

# Time in which a whole exchange must have happened; else the peer hangs, and the cell has failed.
_HANG_S = 5

# As long as everything goes, before what counts begins: for caches, windows, and a proxy that adapts to its load.
_WARM_S = 0.1
# And where it may take further processes to its help, which takes pyproxy 0.2 s.
_WARM_CONNECTING_S = 0.3


class Harness(Protocol):
    """The harness, for programs that stay until they are told to end."""

    def fileno(self) -> int:
        """Readable when there is something to `heed`."""

    def heed(self) -> bool:
        """Wait for a question (True), or to be let go (False)."""

    def say(self, found: dict[str, Any]) -> None: ...


def exchange(
    address: list[Any], size: int, connections: int, seconds: float, roots: Sequence[int] = (), per_s: float = 0
) -> dict[str, float]:
    """Request and response on open connections, one request in flight on each; `per_s` of them, if not 0."""
    clients = [_connect(address) for _ in range(connections)]
    data = content(size)
    for client in clients:
        client.sendall(data)
        _receive(client, data)
    if connections == 1:
        return _timed(partial(_one_by_one, clients[0], data, per_s), seconds, roots)
    return _timed(partial(_at_once, clients, data), seconds, roots)


def _timed(
    run: Callable[[float], list[float]], seconds: float, roots: Sequence[int], warm_s: float = _WARM_S
) -> dict[str, float]:
    """Rate, percentiles, of how many, and the CPU of `roots` and theirs, of a program that returns latencies."""
    processes = [psutil.Process(pid) for pid in roots]
    run(0)  # some peers load half of themselves for their first client only
    run(warm_s)
    before = usage.cpu(processes)
    latencies = run(seconds)
    spent = usage.cpu(processes).since(before)
    if not latencies:
        raise AssertionError("not one exchange was completed")
    latencies.sort()
    found = {"per_s": len(latencies) / seconds, "samples": len(latencies)}
    found |= {name: percentile(latencies, share) * 1e6 for name, share in _PERCENTILES.items()}
    if processes:
        found["cpu_us_each"] = 1e6 * spent.total / len(latencies)
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


def beside_bulk(address: list[Any], size: int, seconds: float, roots: Sequence[int] = ()) -> dict[str, float]:
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
        return exchange(address, size, 1, seconds, roots)
    finally:
        stop.set()
        sender.join()


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


def connect(
    address: list[Any], size: int, connections: int, seconds: float, roots: Sequence[int] = ()
) -> dict[str, float]:
    """Connect, request, response, close; `connections` of them in flight."""
    one_run = partial(_connections, tuple(address), content(size), connections)
    return _timed(one_run, seconds, roots, _WARM_CONNECTING_S)


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


def bulk(harness: Harness, address: list[Any], streams: int, ways: str) -> None:
    """So many streams for each of the `ways` (`u`, `d`, `ud`). Says when all are open, then how much has come."""
    pump = Pump()
    opened: list[socket.socket] = []
    for way in ways.encode():
        for _ in range(streams):
            stream = _connect(address)
            stream.send(bytes([way]))
            opened.append(stream)
    for at, stream in enumerate(opened):
        # The way is open as far as the container when something comes from there.
        if ways.encode()[at // streams] == UP[0]:
            if stream.recv(1) != OPEN:
                raise AssertionError("a stream was closed at once")
            pump.send_on(stream)
        else:
            pump.receive_on(stream)
    pump.watch(harness.fileno())
    harness.say(pump.count())
    while True:
        if pump.turn():
            if not harness.heed():
                return pump.end()
            harness.say(pump.count())


def datagrams(address: list[Any], size: int, flows: int, seconds: float, per_s: float) -> dict[str, float]:
    """Send so many datagrams a second, taking turns among the flows. Delivery is counted elsewhere."""
    sends = _sends(address, size, flows)
    now = time.perf_counter
    began = now()
    end = began + seconds
    sent = 0
    while True:
        at = now()
        if at >= end:
            break
        if sent < (at - began) * per_s:  # else spin, as a sleep is longer than the gap
            sent += _turn(sends)
    return {"sent": sent, "sent_per_s": sent / (now() - began)}


def saturate(harness: Harness, address: list[Any], size: int, flows: int, segmented: bool = False) -> None:
    """Send as many datagrams as go, taking turns among the flows. Delivery is counted elsewhere."""
    sends = _sends(address, size, flows, segmented)
    poll = select.poll()
    poll.register(harness.fileno(), select.POLLIN)
    harness.say({})
    while not poll.poll(0):
        _turn(sends)


def _sends(address: list[Any], size: int, flows: int, segmented: bool = False) -> list[Callable[[], int]]:
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
    return sends


def _turn(sends: list[Callable[[], int]]) -> int:
    sent = 0
    for send in sends:
        try:
            sent += send()
        except ConnectionRefusedError:
            continue  # nobody there yet, or a peer that lets errors through
    return sent


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


def sink(harness: Harness, address: list[Any], size: int) -> None:
    """Send one datagram, and count what comes back; say how much, when the first comes and when asked."""
    sock = with_room(_connect_datagrams(address))
    sock.settimeout(_HANG_S)
    receiver = Receiver(sock)
    sock.send(content(size))
    sock.recv(1)
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(harness.fileno(), select.POLLIN)
    counted = [0, 0, 0]
    goes_on = True
    asked = True
    while goes_on:
        if asked:
            found = dict(zip(("amount", "bytes", "damaged"), counted, strict=True))
            harness.say({**found, "at": time.perf_counter()})
            asked = False
        for fd, _ in poll.poll():
            if fd == harness.fileno():
                goes_on = asked = harness.heed()
                continue
            for each, value in enumerate(receiver.count()):
                counted[each] += value


def _connect_datagrams(address: list[Any]) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(tuple(address))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    return sock


def ping(address: list[Any], size: int, seconds: float, roots: Sequence[int] = ()) -> dict[str, float]:
    """Datagram and reply, one in flight."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(tuple(address))
    sock.settimeout(_HANG_S)
    return _timed(partial(_pings, sock, content(size)), seconds, roots)


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
    "exchange": exchange,
    "beside_bulk": beside_bulk,
    "fill": fill,
    "connect": connect,
    "datagrams": datagrams,
    "burst": burst,
    "ping": ping,
}

# These say what they have found when asked, and end when they are let go.
STAYING: dict[str, Callable[..., None]] = {"hold": hold, "bulk": bulk, "saturate": saturate, "sink": sink}
