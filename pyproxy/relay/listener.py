"""The listener: accepts clients in batches and makes each a connection. TCP and SCTP alike.

A backend socket is made before the client is accepted, so a client never finds itself accepted by a process that has
no descriptor left to serve it: it waits in the kernel's backlog instead. Running out of descriptors or memory is a
state, not an error: say so once, stop accepting, go on when a descriptor is freed (or, as the shortage may be the
whole machine's, after a while).
Owns the listening socket, the one spare backend socket and the live connections.
"""

from __future__ import annotations

import _socket
import asyncio
import contextlib
import errno
import select
import time
from collections.abc import Callable, Collection
from typing import Any, Final, Generic, NamedTuple, TypeVar

from pyproxy.bind import socket_kind
from pyproxy.config import Limits
from pyproxy.core.counters import Counters, counted
from pyproxy.errors import OUT_OF_RESOURCES, in_words
from pyproxy.log import Log
from pyproxy.relay import connection as conn
from pyproxy.relay.connection import Connection
from pyproxy.relay.hooks import Relay
from pyproxy.relay.poller import Poller
from pyproxy.sockopts import tune

# Clients accepted in one go before others get their turn; or other processes theirs (workers.py).
_BATCH = 8

# accept(2): conditions that are no fault of the listener's, after which the next client may be accepted at once.
# The first two: the client is gone again. EPERM: a firewall rule. The others: errors pending on the new socket.
_NEXT_PLEASE = frozenset(
    {
        errno.ECONNABORTED,
        errno.ECONNRESET,
        errno.EPERM,
        errno.ENETDOWN,
        errno.EPROTO,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
        errno.ETIMEDOUT,
    }
)

# When closing a socket of ours does not end the shortage: retry after this, doubling up to the second value. A guess.
_RETRY_S = (0.05, 1.0)

# Limits are looked at this many times within their length: a connection ends at most a quarter late.
_SWEEPS_PER_LIMIT = 4


R = TypeVar("R", bound=Relay)


class Transport(NamedTuple, Generic[R]):
    """What TCP and SCTP do differently."""

    proto: str
    relay: Callable[[_socket.socket, _socket.socket], R]  # one direction, from (source, sink)
    attach_relay: Callable[[R], None]  # one that was made in another process, of which this is a copy
    half_close: bool  # may one side finish before the other?
    established: Callable[[_socket.socket], bool]  # whether a dialed socket is known to be connected by now


class Listener:
    """Serves a listening socket until `close`. Takes the socket over.

    `backend`: family and address of the container.
    """

    # New clients can be refused, and present connections be left to end by themselves.
    can_drain: Final = True

    def __init__(
        self,
        poller: Poller,
        sock: _socket.socket,
        transport: Transport[Any],
        backend: tuple[int, tuple[str | int, ...]],
        *,
        limits: Limits,
        counters: Counters,
        log: Log,
    ) -> None:
        self.poller = poller
        self.relay = transport.relay
        self.attach_relay = transport.attach_relay
        self.half_close = transport.half_close
        self.established = transport.established
        self._sock = sock
        self._transport = transport
        self._family, self._address = backend
        self.backend_port = int(backend[1][1])
        self._limits = limits
        self._counters = counters
        self._log = log
        self._live: set[Connection] = set()
        self._spare: _socket.socket | None = None
        self._closed = False
        self._on_drained: Callable[[], None] | None = None
        self._paused = False  # until the backlog has been emptied again
        # Clients inherit the listening socket's options as they connect (net/core/sock.c, sk_clone_lock). Those who
        # had connected before an adopted socket was tuned did not: they are the ones in the backlog at the start.
        self._inherited = False
        self._retry_s = _RETRY_S[0]
        self._retry: asyncio.TimerHandle | None = None
        self._sweep: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        poller.watch(sock.fileno(), select.EPOLLIN, self._on_clients)
        self._sweep_s = _shortest(limits) / _SWEEPS_PER_LIMIT
        if self._sweep_s:
            self._sweep = poller.loop.call_later(self._sweep_s, self._end_overdue)

    @property
    def live(self) -> int:
        """Connections now."""
        return len(self._live)

    @property
    def accepted(self) -> int:
        """Connections so far."""
        return self._counters.connections

    def counters(self) -> Counters:
        """A snapshot of what has gone through so far, by the connections that are still live too."""
        return self._counters.plus(
            sum(connection.moved_up for connection in self._live),
            sum(connection.moved_down for connection in self._live),
        )

    def fileno(self) -> int:
        """The listening socket's descriptor: to be passed on, not to be used."""
        return self._sock.fileno()

    def free_port(self) -> None:
        """Close the listening socket, in a process that is about to exit: `close` is for one that goes on."""
        self._sock.close()

    @property
    def connections(self) -> tuple[Connection, ...]:
        """Those that are live now, in no order."""
        return tuple(self._live)

    def stop_accepting(self, on_drained: Callable[[], None] | None = None) -> None:
        """Close our copy of the listening socket; what is live goes on, within its limits, until it ends or `close`.

        `on_drained` is called once, when the last connection has ended: at once, if there is none.
        """
        if not self._closed:
            self._closed = True
            if self._retry is not None:
                self._retry.cancel()
            self.poller.unwatch(self._sock.fileno())
            self.poller.close_socket(self._sock)
            if self._spare is not None:
                self._spare.close()
                self._spare = None
        if on_drained is not None:
            if self._live:
                self._on_drained = on_drained
            else:
                on_drained()

    def refuse_new(self) -> None:
        """Stop listening, for all who share the socket: new clients are refused. What is live goes on."""
        with contextlib.suppress(OSError):  # ENOTCONN: somebody else has done it already
            self._sock.shutdown(_socket.SHUT_RDWR)
        self.stop_accepting()

    def close(self) -> None:
        """Stop accepting, free the port, reset what is unfinished. Where the container has gone already, and only its
        last bytes are on their way, the connection goes on until they have arrived: at most `flush.DRAIN_S`
        without progress.
        """
        self.stop_accepting()
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self._live):
            if not connection.draining:
                connection.abort()

    def detach_connections(self, connections: Collection[Connection]) -> None:
        """Another process, a copy of this one, goes on with these, which were suspended before."""
        self._live.difference_update(connections)
        for connection in connections:
            connection.detach()

    def attach_connections(self, connections: Collection[Connection]) -> None:
        """Go on with these, which were suspended, or accepted by another listener in another process."""
        self._live.update(connections)
        for connection in connections:
            try:
                connection.attach(self)
            except Exception as exc:  # a defect, or no memory: it costs this one, as in the poller
                self.poller.loop.call_exception_handler({"message": "taking a connection over", "exception": exc})

    def leave_to_parent(self, kept: Collection[Connection]) -> _socket.socket:
        """In a copy of the process: close our copies of all that the other process goes on with. What is left are the
        connections `kept`, and the listening socket, which is returned.
        """
        self.poller.discard()
        self.detach_connections(self._live.difference(kept))
        if self._spare is not None:
            self._spare.close()
        return self._sock

    def dial_failed(self, error: int) -> None:
        hint = "; is it up, and does it listen on that port?" if error == errno.ECONNREFUSED else ""
        self._log.warn(f"dial {error}", f"container: {in_words(error)}: the client was reset{hint}")

    def connection_closed(self, connection: Connection, how: int) -> None:
        self._live.discard(connection)
        counters = self._counters
        counters.bytes_up += connection.moved_up
        counters.bytes_down += connection.moved_down
        if how == conn.FAILED:
            counters.connections_failed += 1
        elif how == conn.RESET:
            counters.connections_reset += 1
        elif how == conn.TIMED_OUT:
            counters.connections_timed_out += 1
        if self._on_drained is not None and not self._live:
            on_drained, self._on_drained = self._on_drained, None
            on_drained()

    def _on_clients(self, _events: int = 0) -> None:
        for _ in range(_BATCH):
            if self._closed:
                return  # this call was queued before the end
            try:
                if (backend := self._spare) is None:
                    backend = self._spare = self._new_backend()
            except OSError as exc:
                self._pause(exc)
                return
            try:
                # The C call under socket.accept(), without the second object that it wraps the result in.
                fd, _address = self._sock._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                self._emptied()
                return
            except OSError as exc:
                if exc.errno in _NEXT_PLEASE:
                    continue
                self._pause(exc)
                return
            self._spare = None
            client = _socket.socket(self._sock.family, self._sock.type, self._sock.proto, fileno=fd)
            client.setblocking(False)
            if not self._inherited:
                tune(client, self._transport.proto)
            connection = Connection(self, client, backend)
            self._live.add(connection)
            self._counters.connections += 1
            connection.dial(self._address)

    def _new_backend(self) -> _socket.socket:
        kind, number = socket_kind(self._transport.proto)
        sock = _socket.socket(self._family, kind | _socket.SOCK_NONBLOCK, number)
        try:
            tune(sock, self._transport.proto)
        except OSError:
            sock.close()
            raise
        return sock

    def _pause(self, exc: OSError) -> None:
        """Stop accepting until there is a chance that it works again."""
        self.poller.change(self._sock.fileno(), 0)
        if not self._paused:
            self._paused = True
            mend = (
                "; new clients wait until one ends (raise LimitNOFILE, ulimit -n)" if exc.errno == errno.EMFILE else ""
            )
            if exc.errno in OUT_OF_RESOURCES:
                self._counters.out_of_descriptors += 1
            self._log.warn(
                "pause",
                f"cannot accept more than the present {counted(self.live, 'connection')}; new clients wait:"
                f" {in_words(exc.errno)}{mend}",
            )
        self.poller.shortage.when_over(self._resume)
        if self._retry is None:
            self._retry = self.poller.loop.call_later(self._retry_s, self._resume)
            self._retry_s = min(2 * self._retry_s, _RETRY_S[1])

    def _resume(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if not self._closed:
            self.poller.change(self._sock.fileno(), select.EPOLLIN)
            # There may be no client left to cause an event: only trying shows whether the shortage is over.
            self.poller.call_soon(self._on_clients)

    def _emptied(self) -> None:
        """The backlog is empty: a shortage is over, and all clients from now on inherit a tuned socket's options."""
        self._inherited = True
        if self._paused:
            self._paused = False
            self._retry_s = _RETRY_S[0]
            self._log.info(f"accepting again, with {counted(self.live, 'connection')}")

    def _end_overdue(self) -> None:
        self._sweep = self.poller.loop.call_later(self._sweep_s, self._end_overdue)
        now = time.monotonic()
        limits = self._limits
        for connection in list(self._live):
            if connection.suspended:
                continue
            idle_s = connection.idle_s(now)
            if connection.dialing:
                limit_s = limits.connect_s
            elif connection.half_closed and limits.half_closed_s:
                limit_s = min(limits.half_closed_s, limits.idle_s or limits.half_closed_s)
            else:
                limit_s = limits.idle_s
            if limit_s and idle_s >= limit_s:
                connection.time_out()


def _shortest(limits: Limits) -> float:
    return min((s for s in (limits.connect_s, limits.idle_s, limits.half_closed_s) if s), default=0.0)
