"""What serves a published port, made of settings and a socket: the same for solo and engine."""

from __future__ import annotations

import _socket
import socket
from collections.abc import Callable
from typing import Protocol

from pyproxy.bind import backend_address
from pyproxy.config import SCTP, TCP, UDP, Settings
from pyproxy.core.counters import Counters
from pyproxy.log import Log
from pyproxy.relay.connection import Connection
from pyproxy.relay.datagrams import DatagramServer
from pyproxy.relay.listener import Listener, Transport
from pyproxy.relay.messages import MessageRelay
from pyproxy.relay.poller import Poller
from pyproxy.relay.stream import Shared, StreamRelay
from pyproxy.sockopts import is_established


class Server(Protocol):
    """What TCP, SCTP and UDP all are to solo and engine."""

    @property
    def can_drain(self) -> bool:
        """Whether `refuse_new` and waiting for `stop_accepting`'s end make sense."""

    @property
    def live(self) -> int:
        """Connections or flows now."""

    @property
    def connections(self) -> tuple[Connection, ...]:
        """Those that are live now, in no order; none for UDP."""

    def counters(self) -> Counters:
        """A snapshot of what has gone through so far."""

    def fileno(self) -> int:
        """The host socket's descriptor: to be passed on, not to be used."""

    def stop_accepting(self, on_drained: Callable[[], None] | None = None) -> None:
        """Leave new clients to whoever shares the host socket; what is live goes on. `on_drained` is called once, when
        nothing is: at once, if so now.
        """

    def refuse_new(self) -> None:
        """Refuse new clients, for all who share the host socket. Only where `can_drain`."""

    def free_port(self) -> None:
        """Close the host socket, in a process that is about to exit."""

    def close(self) -> None:
        """Free the port, and end what is live."""


def make_server(poller: Poller, settings: Settings, sock: _socket.socket, log: Log, shared: Shared) -> Server:
    """Begin to serve; the result owns `sock` and is closed by the caller. Ports may share `shared`."""
    if settings.port.proto != UDP:
        return make_listener(poller, settings, sock, log, shared)
    return DatagramServer(
        poller,
        socket.socket(fileno=sock.detach()),
        backend_address(settings.port),
        max_flows=settings.udp_max_flows,
        counters=Counters(),
        log=log,
    )


def make_listener(poller: Poller, settings: Settings, sock: _socket.socket, log: Log, shared: Shared) -> Listener:
    """The same for a port of TCP or SCTP."""
    transport = _tcp(shared) if settings.port.proto == TCP else _SCTP
    backend = backend_address(settings.port)
    return Listener(poller, sock, transport, backend, limits=settings.limits, counters=Counters(), log=log)


def _tcp(shared: Shared) -> Transport[StreamRelay]:
    return Transport(
        TCP,
        lambda source, sink: StreamRelay(source, sink, shared),
        attach_relay=lambda relay: relay.attach(shared),
        half_close=True,
        established=is_established,
    )


# RFC 9260 section 9.2: SCTP has no half-closed state.
_SCTP: Transport[MessageRelay] = Transport(
    SCTP, MessageRelay, attach_relay=lambda _: None, half_close=False, established=lambda _: False
)
