"""UDP: the clients' datagrams to their flows, each flow's own socket to the container, and replies back.

A client's first datagram makes a flow: a socket connected to the container, so that replies find their client. The
reply leaves from the address the client spoke to, which packet info tells where the host socket is bound to all.
Owns the host socket and every flow's socket. What the kernel will not take is dropped, as UDP may, and counted.
"""

from __future__ import annotations

import asyncio
import errno
import select
import socket
import time

from pyproxy.ancillary import PACKET_INFO_SPACE, Ancillary, reply_from, spoken_to
from pyproxy.counters import Counters
from pyproxy.errors import OUT_OF_RESOURCES, in_words
from pyproxy.flows import IDLE_S, FlowTable
from pyproxy.log import Log
from pyproxy.poller import Poller
from pyproxy.published import UDP
from pyproxy.tune import tune

# The largest UDP payload is 65,507 bytes over IPv4 and 65,527 over IPv6: nothing is ever cut short.
_BUFFER = memoryview(bytearray(1 << 16))

# Datagrams read from one socket before others get their turn.
_TURN = 64

# A connected socket reports an ICMP error that came back for an earlier datagram (port unreachable, prohibited by a
# firewall, ...) on the next call, which then does nothing. One more could arrive in between.
_TRIES = 3

# Reasons for which a new flow finds no place, that an old one's end may mend. The last two: connect(2) found no free
# local port, of which a host has 28,232 by default (net.ipv4.ip_local_port_range), for all of its ports and programs.
_SHORTAGES = OUT_OF_RESOURCES | {errno.EAGAIN, errno.EADDRNOTAVAIL}

Address = tuple[str | int, ...]
Key = tuple[Address, bytes]


class Flow:
    """A client, the address it spoke to, and the socket that speaks to the container for it."""

    __slots__ = ("client", "key", "last_s", "reply", "sock")

    def __init__(self, key: Key, sock: socket.socket) -> None:
        self.key = key
        self.client, local = key
        self.reply: Ancillary = reply_from(local)
        self.sock = sock
        self.last_s = 0.0


class DatagramRelay:
    """Serves a bound and tuned UDP socket until `close`. Takes the socket over.

    `backend`: family and address of the container. `max_flows`: at this many the least recently used goes first.
    `idle_s`: a flow ends this long after its last datagram.
    """

    def __init__(
        self,
        poller: Poller,
        sock: socket.socket,
        backend: tuple[int, Address],
        *,
        max_flows: int,
        counters: Counters,
        log: Log,
        idle_s: float = IDLE_S,
    ) -> None:
        self._poller = poller
        self._sock = sock
        self._family, self._address = backend
        self._flows: FlowTable[Key, Flow] = FlowTable(max_flows, idle_s)
        self._counters = counters
        self._log = log
        self._expiry: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        poller.watch(sock.fileno(), select.EPOLLIN, self._on_clients)

    @property
    def live(self) -> int:
        """Flows now."""
        return len(self._flows)

    def totals(self) -> Counters:
        return self._counters

    def free_port(self) -> None:
        """Close the host socket, in a process that is about to exit: `close` is for one that goes on."""
        self._sock.close()

    def close(self) -> None:
        """Free the port and end every flow."""
        if self._expiry is not None:
            self._expiry.cancel()
        self._poller.unwatch(self._sock.fileno())
        self._poller.close_socket(self._sock)
        for flow in self._flows.clear():
            self._poller.close_socket(flow.sock)

    def _on_clients(self, _events: int) -> None:
        now = time.monotonic()
        for _ in range(_TURN):
            try:
                size, ancillary, _, client = self._sock.recvmsg_into([_BUFFER], PACKET_INFO_SPACE)
            except BlockingIOError:
                return
            except OSError as exc:
                self._drop("host socket", exc)
                continue
            key = (client, spoken_to(ancillary))
            flow = self._flows.find(key, now) or self._open(key, now)
            if flow is not None:
                self._send_up(flow, _BUFFER[:size])

    def _open(self, key: Key, now: float) -> Flow | None:
        if self._flows.is_full:
            self._evict()
            self._log.warn("full", f"at {len(self._flows) + 1} flows, -udp-max-flows: the longest silent goes first")
        try:
            sock = self._connect()
        except OSError as exc:
            self._drop("container", exc)
            return None
        flow = Flow(key, sock)
        try:
            self._poller.watch(sock.fileno(), select.EPOLLIN, lambda _events: self._on_backend(flow))
        except OSError as exc:
            sock.close()
            self._drop("container", exc)
            return None
        self._flows.add(key, flow, now)
        self._counters.flows += 1
        if self._expiry is None:
            self._expire_later(now)
        return flow

    def _connect(self) -> socket.socket:
        try:
            return self._new_socket()
        except OSError as exc:
            if exc.errno not in _SHORTAGES or not len(self._flows):
                raise
            self._counters.out_of_descriptors += 1
            self._log.warn(
                "shortage", f"{in_words(exc.errno)} at {len(self._flows)} flows: the longest silent goes first"
            )
            self._evict(at_once=True)
        return self._new_socket()

    def _new_socket(self) -> socket.socket:
        sock = socket.socket(self._family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            tune(sock, UDP)
            sock.connect(self._address)
        except OSError:
            sock.close()
            raise
        return sock

    def _send_up(self, flow: Flow, data: memoryview) -> None:
        for attempt in range(_TRIES):
            try:
                flow.sock.send(data)
            except BlockingIOError as exc:
                self._drop("container", exc)
                return
            except OSError as exc:
                if attempt < _TRIES - 1:
                    self._unreachable(exc)
                    continue
                self._drop("container", exc)
                return
            self._counters.datagrams_up += 1
            self._counters.bytes_up += len(data)
            return

    def _on_backend(self, flow: Flow) -> None:
        heard = False
        for _ in range(_TURN):
            try:
                size = flow.sock.recv_into(_BUFFER)
            except BlockingIOError:
                break
            except OSError as exc:
                self._unreachable(exc)
                continue
            heard = True
            try:
                self._sock.sendmsg([_BUFFER[:size]], flow.reply, 0, flow.client)
            except OSError as exc:
                self._drop("client", exc)
                continue
            self._counters.datagrams_down += 1
            self._counters.bytes_down += size
        if heard:
            self._flows.touch(flow.key, time.monotonic())

    def _unreachable(self, exc: OSError) -> None:
        """An ICMP error has come back for an earlier datagram. Nothing is lost by hearing of it."""
        self._counters.datagrams_unreachable += 1
        hint = ": does it listen on that port?" if exc.errno == errno.ECONNREFUSED else ""
        self._log.warn(f"unreachable {exc.errno}", f"container says {in_words(exc.errno)}{hint}")

    def _drop(self, where: str, exc: OSError) -> None:
        self._counters.datagrams_dropped += 1
        self._log.warn(f"drop {where} {exc.errno}", f"datagram dropped: {where}: {in_words(exc.errno)}")

    def _evict(self, *, at_once: bool = False) -> None:
        flow = self._flows.evict()
        if flow is not None:
            self._counters.flows_evicted += 1
            self._poller.close_socket(flow.sock, at_once=at_once)

    def _expire_later(self, now: float) -> None:
        due = self._flows.next_expiry()
        self._expiry = None if due is None else self._poller.loop.call_later(max(0.0, due - now), self._expire)

    def _expire(self) -> None:
        now = time.monotonic()
        for flow in self._flows.expire(now):
            self._counters.flows_expired += 1
            self._poller.close_socket(flow.sock)
        self._expire_later(now)
