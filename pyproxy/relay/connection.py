"""A client and its backend: dial the container, relay both ways, end as `ending.py` decides.

States: dialing (the client waits, unread, its bytes in the kernel), relaying, draining (one side has been reset, and
what it sent before is on its way to the other), closed. The connection owns both sockets from its construction on and
closes them once, through the poller; a relay only borrows them. The listener is told of the end by
`ListenerHooks.connection_closed`. Both sockets are set up so that closing them resets the connection
(`sockopts.tune`): an orderly end has to be asked for.
"""

from __future__ import annotations

import _socket
import errno
import select

from pyproxy.core import ending
from pyproxy.core.ending import CLOSED, READ, WRITE, YIELD
from pyproxy.relay.flush import Flush, Progress, discard, unacknowledged_bytes
from pyproxy.relay.hooks import ListenerHooks, Relay
from pyproxy.relay.poller import BOTH_EDGES, READABLE, WRITABLE
from pyproxy.sockopts import close_politely, close_with_reset, is_connected_to_itself

# How a connection came to its end.
COMPLETE, FAILED, RESET, TIMED_OUT = range(4)

# Events that announce nothing but room and ordinary data.
_PLAIN = select.EPOLLIN | select.EPOLLOUT


class Connection:
    """Both sockets are non-blocking and tuned; `backend` is new and not yet connected. `dial` starts it."""

    __slots__ = (
        "_backend",
        "_client",
        "_down",
        "_down_state",
        "_down_wants",
        "_draining",
        "_flush",
        "_idle",
        "_listener",
        "_up",
        "_up_state",
        "_up_wants",
        "closed",
        "suspended",
    )

    def __init__(self, listener: ListenerHooks, client: _socket.socket, backend: _socket.socket) -> None:
        self._listener = listener
        self._client = client
        self._backend = backend
        self._up: Relay | None = None
        self._down: Relay | None = None
        self._up_state = self._down_state = ending.OPEN
        self._up_wants = self._down_wants = CLOSED  # until there are relays
        self.closed = False
        self.suspended = False
        self._draining: Progress | None = None
        self._flush: Flush | None = None
        self._idle: tuple[int, float] | None = None  # bytes delivered, and since when it has been that many

    @property
    def moved_up(self) -> int:
        return self._up.moved if self._up is not None else 0

    @property
    def moved_down(self) -> int:
        return self._down.moved if self._down is not None else 0

    def filenos(self) -> tuple[int, int]:
        """Its sockets' descriptors."""
        return self._client.fileno(), self._backend.fileno()

    @property
    def moved(self) -> int:
        """Bytes, both ways."""
        return self.moved_up + self.moved_down

    def _delivered(self) -> int:
        """Bytes, both ways, that the far kernels have acknowledged; give or take what never changes."""
        return self.moved - unacknowledged_bytes(self._client) - unacknowledged_bytes(self._backend)

    @property
    def is_bulk(self) -> bool:
        """Whether what came last was bulk, either way."""
        return self._up is not None and self._down is not None and (self._up.is_bulk or self._down.is_bulk)

    @property
    def can_migrate(self) -> bool:
        """Whether another process could go on with it: it relays, and no timer of this one's runs for it."""
        return self._up is not None and not (self.draining or self.suspended or self.closed)

    @property
    def client_address(self) -> tuple[str, int] | None:
        """The client's address and port; None if the client has just gone."""
        try:
            ip, port = self._client.getpeername()[:2]
        except OSError:
            return None
        return str(ip), int(port)

    @property
    def dialing(self) -> bool:
        return self._up is None

    @property
    def half_closed(self) -> bool:
        """Whether one side has finished, or has been reset."""
        return ending.ENDED in (self._up_state, self._down_state) or self.draining

    @property
    def draining(self) -> bool:
        """Whether one side has been reset, and what it sent before is still on its way to the other."""
        return self._draining is not None

    def dial(self, address: tuple[str | int, ...]) -> None:
        """Connect to the container without waiting. The listener is told if that fails."""
        listener = self._listener
        watch = listener.poller.watch
        on_client, on_backend = self._on_waiting_client, self._on_dialed
        try:
            error = self._backend.connect_ex(address)
            if error in (0, errno.EINPROGRESS):
                if listener.established(self._backend):
                    # Most often the request has come by now. What comes before the socket is watched causes no event.
                    self._begin()
                    self._pump_up(False)
                    if self.closed or self._flush is not None:
                        return
                    on_client, on_backend = self._on_client, self._on_backend
                watch(self._client.fileno(), BOTH_EDGES, on_client)
                watch(self._backend.fileno(), BOTH_EDGES, on_backend)
                return
        except OSError as exc:  # epoll_ctl: no memory, or its limit on watches
            error = exc.errno or errno.ENOMEM
        self._fail(error)

    def idle_s(self, now: float) -> float:
        """For how long nothing has moved, as far as calls of this method have seen. Bytes that this process sent long
        ago move when a slow reader's kernel acknowledges them.
        """
        delivered = self._delivered()
        if self._idle is None or self._idle[0] != delivered:
            self._idle = (delivered, now)
        return now - self._idle[1]

    def time_out(self) -> None:
        """End it: one of our own limits has been reached. Neither side may take it for complete."""
        if self.dialing:
            self._fail(errno.ETIMEDOUT)
        else:
            self._reset(TIMED_OUT)

    def abort(self) -> None:
        """Stop now. Only a side that was sent everything may see an orderly end."""
        self._over(RESET)

    def suspend(self) -> None:
        """A copy of this process has it too, and may go on with it: do nothing, until `attach` or `detach`."""
        self.suspended = True
        self._up_wants = self._down_wants = CLOSED
        for fd in self.filenos():
            self._listener.poller.unwatch(fd)

    def detach(self) -> None:
        """Of two processes that have it, the other goes on: close our descriptors, which neither peer notices."""
        self.closed = True
        self._up_wants = self._down_wants = CLOSED
        for relay in (self._up, self._down):
            if relay is not None:
                relay.detach()
        self._client.close()
        self._backend.close()

    def attach(self, listener: ListenerHooks) -> None:
        """Go on with it, after `suspend`, in this process or in a copy of it, where `listener` is another."""
        self.suspended = False
        if listener is not self._listener:
            self._listener = listener
            for relay in (self._up, self._down):
                if relay is not None:
                    listener.attach_relay(relay)
        # Try both directions anew, whatever they waited for: the event may have come before we watch.
        self._up_wants = READ if self._up_state == ending.OPEN else CLOSED
        self._down_wants = READ if self._down_state == ending.OPEN else CLOSED
        poller = listener.poller
        try:
            poller.watch(self._client.fileno(), BOTH_EDGES, self._on_client)
            poller.watch(self._backend.fileno(), BOTH_EDGES, self._on_backend)
        except OSError:  # no memory, or the kernel's limit on watches
            self._reset(RESET)
            return
        self._pump_up()
        self._pump_down()

    def _on_waiting_client(self, events: int) -> None:
        if not events & select.EPOLLERR:
            return
        try:
            # The client has gone. What it sent before must arrive all the same, as it would on a direct connection.
            self._client.recv(1, _socket.MSG_PEEK)
        except OSError:
            self._over(RESET)  # else nobody needs the backend any more

    def _on_dialed(self, events: int) -> None:
        if events & select.EPOLLERR:
            # Refused or unreachable; or connected, and already reset by a backend whose last bytes wait to be read.
            try:
                self._backend.recv(1, _socket.MSG_PEEK)
            except BlockingIOError:
                pass
            except OSError as exc:
                self._fail(exc.errno or errno.ECONNREFUSED)
                return
        self._begin()
        if self.closed:
            return
        poller = self._listener.poller
        poller.set_handler(self._backend.fileno(), self._on_backend)
        poller.set_handler(self._client.fileno(), self._on_client)
        # The events of what the client sent while it waited have passed.
        self._pump_up()
        if events & READABLE:
            self._on_backend(events)

    def _begin(self) -> None:
        if is_connected_to_itself(self._backend, self._listener.backend_port):
            self._fail(errno.ECONNREFUSED)
            return
        relay = self._listener.relay
        self._up = relay(self._client, self._backend)
        self._down = relay(self._backend, self._client)
        self._up_wants = self._down_wants = READ

    def _on_client(self, events: int) -> None:
        if self._down_wants == WRITE and events & WRITABLE:
            self._pump_down()
        if events & READABLE:
            if self._up_wants == READ:
                self._pump_up(events & ~_PLAIN != 0)
            elif self._up_state == ending.CUT:
                self._discard(self._client)
        if events & select.EPOLLERR:
            self._on_error(self._up_state, self._backend)

    def _on_backend(self, events: int) -> None:
        if self._up_wants == WRITE and events & WRITABLE:
            self._pump_up()
        if events & READABLE:
            if self._down_wants == READ:
                self._pump_down(events & ~_PLAIN != 0)
            elif self._down_state == ending.CUT:
                self._discard(self._backend)
        if events & select.EPOLLERR:
            self._on_error(self._down_state, self._client)

    def _on_error(self, its_direction: int, other_side: _socket.socket) -> None:
        """A side was reset. The relay that reads from it reports that, unless it has ended, or waits for its sink."""
        if its_direction == ending.ENDED:
            self._flush_and_reset(other_side)
        elif not self.closed:
            self._drain()

    def _pump_up(self, exhaustive: bool = True) -> None:
        up = self._up
        if up is None or self._up_wants == CLOSED:
            return  # a turn that was asked for before the end
        try:
            self._up_wants = wants = up.pump(exhaustive)
        except Exception:  # a defect, or no memory: bytes may be lost, so it must not look complete
            self._reset(RESET)
            raise
        if wants == YIELD:
            self._listener.poller.call_soon(self._pump_up)
        elif wants > YIELD:
            self._end_up(wants)

    def _pump_down(self, exhaustive: bool = True) -> None:
        down = self._down
        if down is None or self._down_wants == CLOSED:
            return
        try:
            self._down_wants = wants = down.pump(exhaustive)
        except Exception:  # as above
            self._reset(RESET)
            raise
        if wants == YIELD:
            self._listener.poller.call_soon(self._pump_down)
        elif wants > YIELD:
            self._end_down(wants)

    def _end_up(self, outcome: int) -> None:
        self._up_wants = CLOSED
        self._up_state, action = ending.decide(outcome, self._down_state)
        if not self._act(action, self._up, self._client, self._backend):
            self._end_up(ending.SINK_FAILED)

    def _end_down(self, outcome: int) -> None:
        self._down_wants = CLOSED
        self._down_state, action = ending.decide(outcome, self._up_state)
        if not self._act(action, self._down, self._backend, self._client):
            self._end_down(ending.SINK_FAILED)

    def _act(self, action: int, relay: Relay | None, source: _socket.socket, sink: _socket.socket) -> bool:
        """Do `action`. False: the sink was reset in the meantime, so this end cannot be passed on."""
        assert relay is not None
        relay.release()
        if action == ending.RESET:
            self._reset(RESET)
        elif action == ending.FLUSH:
            self._flush_and_reset(sink)
        elif action == ending.FLUSH_BACK:
            self._flush_and_reset(source)
        elif action == ending.DRAIN:
            self._drain()
            self._discard(source)
        elif action == ending.CLOSE:
            close_politely(sink)
            self._over(COMPLETE)
        elif not self._listener.half_close:
            close_politely(sink)
            self._finish_without_half_close(relay)
        else:
            close_politely(sink)  # first: once the far end has seen the end, a stop of ours must not reset it
            try:
                sink.shutdown(_socket.SHUT_WR)
            except OSError:  # ENOTCONN
                close_with_reset(sink)
                return False
        return True

    def _finish_without_half_close(self, ended: Relay) -> None:
        """SCTP: a side that has ended takes nothing more (RFC 9260 section 9.2)."""
        other = self._down if ended is self._up else self._up
        assert other is not None
        # Unread messages would turn our orderly end to their sender into an ABORT, and lose what we have just sent it.
        other.pump(True)
        close_politely(self._client)
        close_politely(self._backend)
        self._over(COMPLETE)

    def _drain(self) -> None:
        if self._draining is None:
            loop = self._listener.poller.loop
            self._draining = Progress(loop, self._delivered, lambda: self._reset(RESET))

    def _discard(self, source: _socket.socket) -> None:
        """Read and drop what can no longer be delivered: a side that blocks in a write would never read."""
        if not self.closed and self._flush is None and discard(source):
            self._listener.poller.call_soon(lambda: self._discard(source))

    def _flush_and_reset(self, sink: _socket.socket) -> None:
        """The other side has gone. Reset, once all that was sent on `sink` has been acknowledged."""
        if self.closed or self._flush is not None:
            return
        if not unacknowledged_bytes(sink):
            self._reset(RESET)
            return
        self._up_wants = self._down_wants = CLOSED
        poller = self._listener.poller
        for relay, sock in ((self._up, self._client), (self._down, self._backend)):
            assert relay is not None
            relay.release()
            poller.unwatch(sock.fileno())
        self._drain()
        try:
            self._flush = Flush(poller, sink, lambda: self._reset(RESET))
        except OSError:  # no memory for one more watch
            self._reset(RESET)

    def _fail(self, error: int) -> None:
        if not self.closed:
            self._listener.dial_failed(error)
            self._over(FAILED)

    def _reset(self, how: int) -> None:
        if not self.closed:
            close_with_reset(self._client)
            close_with_reset(self._backend)
            self._over(how)

    def _over(self, how: int) -> None:
        self.closed = True
        self._up_state = self._down_state = ending.CUT
        self._up_wants = self._down_wants = CLOSED
        for relay in (self._up, self._down):
            if relay is not None:
                relay.release()
        for waiting in (self._draining, self._flush):
            if waiting is not None:
                waiting.cancel()
        listener = self._listener
        listener.connection_closed(self, how)
        # After the count: closing may let a listener accept again.
        listener.poller.close_socket(self._client)
        listener.poller.close_socket(self._backend)
