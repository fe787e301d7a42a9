"""UDP: the clients' datagrams to their flows, each flow's own socket to the container, and replies back.

A client's first datagram makes a flow: a socket connected to the container, so that replies find their client. The
reply leaves from the address the client spoke to, which packet info tells where the host socket is bound to all.
Datagrams are received by the batch. Neighbours in a flow that have the same size are sent on by one call, as an
aggregate. Owns the host socket and every flow's socket. What the kernel will not take is dropped, as UDP may, and
counted.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import select
import socket
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Final

from pyproxy.config import UDP
from pyproxy.core.cmsg import PACKET_INFO4_SPACE, PACKET_INFO6_SPACE, Ancillary, local_address, reply_from
from pyproxy.core.counters import Counters
from pyproxy.core.flows import IDLE_S, FlowTable
from pyproxy.core.gso import MAX_BYTES, cmsg, coalesce
from pyproxy.errors import OUT_OF_RESOURCES, in_words
from pyproxy.log import Log
from pyproxy.relay.batch import Batch
from pyproxy.relay.connection import Connection
from pyproxy.relay.poller import Poller
from pyproxy.sockopts import gives_packet_info, is_connected_to_itself, supports_gso, tune

# The largest datagrams to join: those that need no fragments on Ethernet (MTU 1,500 less the headers of IP and UDP).
_JOINABLE = {socket.AF_INET: 1472, socket.AF_INET6: 1452}

# The kernel's ways to say that this cannot leave as an aggregate (net/ipv4/udp.c, udp_send_skb): a segment does not fit
# the path's MTU (EINVAL in some versions); no checksum, or IPsec, on the way.
_NO_GSO = {errno.EMSGSIZE, errno.EINVAL, errno.EIO}

# A connected socket reports an ICMP error that came back for an earlier datagram (port unreachable, prohibited by a
# firewall, ...) on the next call, which then does nothing. One more could arrive in between.
_TRIES = 3

# Why a new flow cannot begin, where ending an old one may help. The last two: connect(2) found no free
# local port, of which a host has 28,232 by default (net.ipv4.ip_local_port_range), for all of its ports and programs.
_SHORTAGES = OUT_OF_RESOURCES | {errno.EAGAIN, errno.EADDRNOTAVAIL}

# The messages of a batch of one.
_ONLY = range(1)

Address = tuple[str | int, ...]
Key = tuple[Address, bytes]


class Direction:
    """One direction of a flow: on which socket, to whom (None: connected), from where, and what may be joined."""

    __slots__ = ("address", "ancillary", "joinable", "sock")

    def __init__(self, sock: socket.socket, address: Address | None, ancillary: Ancillary, joinable: int) -> None:
        self.sock = sock
        self.address = address
        self.ancillary = ancillary
        self.joinable = joinable


class Flow:
    """A client, the address it spoke to, and the socket that speaks to the container for it."""

    __slots__ = ("down", "key", "last_s", "sender_keys", "sock", "up")

    def __init__(self, key: Key, sock: socket.socket, host_sock: socket.socket, *, gso: bool) -> None:
        self.key = key
        client, local = key
        self.sock = sock
        self.up = Direction(sock, None, [], _JOINABLE[sock.family] if gso else 0)
        self.down = Direction(host_sock, client, reply_from(local), _JOINABLE[host_sock.family] if gso else 0)
        self.sender_keys: list[Hashable] = []  # what batches call its sender
        self.last_s = 0.0


class DatagramServer:
    """Serves a bound and tuned UDP socket until `close`. Takes the socket over.

    `backend`: family and address of the container. `max_flows`: at this many the least recently used goes first.
    `idle_s`: a flow ends this long after its last datagram.
    """

    # There are no connections that could be left to end by themselves: new clients cannot be refused and present ones
    # kept.
    can_drain: Final = False

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
        self._batch = _shared_batch()
        self._gso = supports_gso(sock)
        self._ancillary_bytes = 0
        if gives_packet_info(sock):
            self._ancillary_bytes = PACKET_INFO4_SPACE if sock.family == socket.AF_INET else PACKET_INFO6_SPACE
        self._family, self._address = backend
        self._flows: FlowTable[Key, Flow] = FlowTable(max_flows, idle_s)
        self._by_key: dict[Hashable, Flow] = {}
        self._counters = counters
        self._log = log
        self._expiry: asyncio.TimerHandle | None = None
        self._accepting = True
        self._on_drained: Callable[[], None] | None = None
        sock.setblocking(False)
        poller.watch(sock.fileno(), select.EPOLLIN, self._on_clients)

    @property
    def live(self) -> int:
        """Flows now."""
        return len(self._flows)

    @property
    def connections(self) -> tuple[Connection, ...]:
        """None: UDP has flows."""
        return ()

    def counters(self) -> Counters:
        """A snapshot of what has gone through so far."""
        return self._counters.plus(0, 0)

    def fileno(self) -> int:
        """The host socket's descriptor: to be passed on, not to be used."""
        return self._sock.fileno()

    def free_port(self) -> None:
        """Close the host socket, in a process that is about to exit: `close` is for one that goes on."""
        self._sock.close()

    def stop_accepting(self, on_drained: Callable[[], None] | None = None) -> None:
        """Leave clients' datagrams to whoever shares the host socket; replies to the present flows still go out, until
        the flows have expired, or `close`. `on_drained` is called once, when there are none: at once, if so now.
        """
        if self._accepting:
            self._accepting = False
            self._poller.unwatch(self._sock.fileno())
        self._on_drained = on_drained
        self._tell_if_drained()

    def _tell_if_drained(self) -> None:
        if self._on_drained is not None and not self.live:
            on_drained, self._on_drained = self._on_drained, None
            on_drained()

    def refuse_new(self) -> None:
        raise TypeError("UDP has no connections that could stay while new ones are refused: see can_drain")

    def close(self) -> None:
        """Free the port and end every flow."""
        if self._expiry is not None:
            self._expiry.cancel()
        self._on_drained = None
        self.stop_accepting()
        self._poller.close_socket(self._sock)
        self._by_key.clear()
        for flow in self._flows.clear():
            self._poller.close_socket(flow.sock)

    def _on_clients(self, _events: int) -> None:
        batch = self._batch
        try:
            count = batch.receive(self._sock.fileno())
        except BlockingIOError:
            return
        except OSError as exc:
            self._drop("host socket", exc, 1)
            return
        if count == 1 and (size := batch.only_size(self._ancillary_bytes)) is not None:
            name = batch.only_sender_key(self._sock.family, self._ancillary_bytes)
            self._from_client(name, _ONLY, [size], None, time.monotonic())
            return
        sizes = batch.sizes(count)
        segments = batch.segments(count, self._ancillary_bytes)
        names = batch.sender_keys(count, self._sock.family, segments, self._ancillary_bytes)
        now = time.monotonic()
        if names.count(names[0]) == count:
            self._from_client(names[0], range(count), sizes, segments, now)
            return
        # By flow, where it is known: a flow may have several names, and its datagrams keep their order.
        groups: dict[Hashable, list[int]] = {}
        for each, name in enumerate(names):
            group = self._by_key.get(name, name)
            if (messages := groups.get(group)) is None:
                groups[group] = [each]
            else:
                messages.append(each)
        for messages in groups.values():
            own = None if segments is None else [segments[each] for each in messages]
            # By name again: a new flow may have taken the place of one that was known.
            self._from_client(names[messages[0]], messages, [sizes[each] for each in messages], own, now)

    def _from_client(
        self, name: Hashable, messages: Sequence[int], sizes: list[int], segments: list[int] | None, now: float
    ) -> None:
        """Pass on what one client has sent: `messages` of the batch, their sizes, and segment sizes if any has one."""
        if (flow := self._by_key.get(name)) is not None:
            self._flows.touch(flow.key, now)
        elif (flow := self._find(name, messages[0], now)) is None:
            self._counters.datagrams_dropped += len(messages) - 1  # the first has been counted, with the reason
            return
        datagrams, size = self._pass_on(flow.up, messages, sizes, segments)
        self._counters.datagrams_up += datagrams
        self._counters.bytes_up += size

    def _find(self, name: Hashable, message: int, now: float) -> Flow | None:
        """The flow of a client that is not yet known by that name, or a new one."""
        key = self._batch.sender(message), local_address(self._batch.ancillary(message))
        flow = self._flows.find(key, now) or self._open(key, now)
        if flow is not None:
            # A flow may have several names: they contain the interface too, and routes may change.
            flow.sender_keys.append(name)
            self._by_key[name] = flow
        return flow

    def _open(self, key: Key, now: float) -> Flow | None:
        if self._flows.is_full:
            self._evict()
            self._log.warn(
                "full", f"at {len(self._flows) + 1} flows, -udp-max-flows: the one silent longest goes first"
            )
        try:
            sock = self._connect()
        except OSError as exc:
            self._drop("container", exc, 1)
            return None
        flow = Flow(key, sock, self._sock, gso=self._gso)
        try:
            self._poller.watch(sock.fileno(), select.EPOLLIN, lambda _events: self._on_backend(flow))
        except OSError as exc:
            sock.close()
            self._drop("container", exc, 1)
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
                "shortage", f"{in_words(exc.errno)} at {len(self._flows)} flows: the one silent longest goes first"
            )
            self._evict()
        return self._new_socket()

    def _new_socket(self) -> socket.socket:
        sock = socket.socket(self._family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            tune(sock, UDP)
            sock.connect(self._address)
            if is_connected_to_itself(sock, int(self._address[1])):
                raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody is there, so the port was free for us")
        except OSError:
            sock.close()
            raise
        return sock

    def _on_backend(self, flow: Flow) -> None:
        batch = self._batch
        for _ in range(_TRIES):
            try:
                count = batch.receive(flow.sock.fileno())
            except BlockingIOError:
                return
            except OSError as exc:
                self._unreachable(exc)
                continue
            self._flows.touch(flow.key, time.monotonic())
            if count == 1 and (only := batch.only_size(0)) is not None:
                datagrams, size = self._pass_on(flow.down, _ONLY, [only], None)
            else:
                datagrams, size = self._pass_on(flow.down, range(count), batch.sizes(count), batch.segments(count, 0))
            self._counters.datagrams_down += datagrams
            self._counters.bytes_down += size
            return

    def _pass_on(
        self, direction: Direction, messages: Sequence[int], sizes: list[int], segments: list[int] | None
    ) -> tuple[int, int]:
        """Send messages of the batch on, in order; return how many datagrams, and bytes, the kernel has taken."""
        slots = self._batch.slots
        if len(sizes) == 1 and segments is None:
            return self._send(direction, [slots[messages[0]][: sizes[0]]], sizes[0], 0)
        datagrams = moved = 0
        for first, end, segment in coalesce(sizes, segments, direction.joinable):
            aggregate = [slots[messages[each]][: sizes[each]] for each in range(first, end)]
            count, size = self._send(direction, aggregate, sum(sizes[first:end]), segment)
            datagrams += count
            moved += size
        return datagrams, moved

    def _send(self, direction: Direction, aggregate: list[memoryview], size: int, segment: int) -> tuple[int, int]:
        """Send an aggregate of `size` bytes, or one datagram (`segment` 0), in one call; return what was taken."""
        if segment > direction.joinable or (size > MAX_BYTES and segment):
            return self._send_segments(direction, aggregate, segment)
        count = -(-size // segment) if segment else 1
        ancillary = [*direction.ancillary, *cmsg(segment)] if segment else direction.ancillary
        for tries_left in range(_TRIES - 1, -1, -1):
            try:
                if ancillary:
                    direction.sock.sendmsg(aggregate, ancillary, 0, direction.address)
                elif direction.address is None:  # these two are cheaper to call (bench/NOTES.md)
                    direction.sock.send(aggregate[0])
                else:
                    direction.sock.sendto(aggregate[0], direction.address)
            except BlockingIOError as exc:
                self._drop(_far_end(direction), exc, count)
                break
            except OSError as exc:
                if segment and exc.errno in _NO_GSO:
                    if direction.address is None and tries_left == _TRIES - 1:
                        continue  # the error may be that of an earlier datagram, and not of this aggregate
                    direction.joinable = segment - 1 if exc.errno == errno.EMSGSIZE else 0
                    return self._send_segments(direction, aggregate, segment)
                if direction.address is None and tries_left:
                    self._unreachable(exc)
                    continue
                self._drop(_far_end(direction), exc, count)
                break
            return count, size
        return 0, 0

    def _send_segments(self, direction: Direction, aggregate: list[memoryview], segment: int) -> tuple[int, int]:
        """Send the datagrams of an aggregate one by one."""
        datagrams = moved = 0
        for part in aggregate:
            for at in range(0, len(part), segment):
                data = part[at : at + segment]
                count, size = self._send(direction, [data], len(data), 0)
                datagrams += count
                moved += size
        return datagrams, moved

    def _unreachable(self, exc: OSError) -> None:
        """An ICMP error has come back for an earlier datagram. The present one is not lost."""
        self._counters.datagrams_unreachable += 1
        hint = ": does it listen on that port?" if exc.errno == errno.ECONNREFUSED else ""
        self._log.warn(f"unreachable {exc.errno}", f"container says {in_words(exc.errno)}{hint}")

    def _drop(self, where: str, exc: OSError, count: int) -> None:
        self._counters.datagrams_dropped += count
        self._log.warn(f"drop {where} {exc.errno}", f"datagram dropped: {where}: {in_words(exc.errno)}")

    def _evict(self) -> None:
        flow = self._flows.evict()
        if flow is not None:
            self._counters.flows_evicted += 1
            self._end(flow)

    def _end(self, flow: Flow) -> None:
        for name in flow.sender_keys:
            del self._by_key[name]
        self._poller.close_socket(flow.sock)

    def _expire_later(self, now: float) -> None:
        due = self._flows.next_expiry()
        self._expiry = None if due is None else self._poller.loop.call_later(max(0.0, due - now), self._expire)

    def _expire(self) -> None:
        now = time.monotonic()
        for flow in self._flows.expire(now):
            self._counters.flows_expired += 1
            self._end(flow)
        if not len(self._flows):
            self._batch.give_back()
        self._expire_later(now)
        self._tell_if_drained()


@functools.cache
def _shared_batch() -> Batch:
    """One for all relays of the process, made when the first needs it: only one relay runs at a time."""
    return Batch()


def _far_end(direction: Direction) -> str:
    return "container" if direction.address is None else "client"
