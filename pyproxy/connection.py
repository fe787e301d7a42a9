"""A client and its backend: dial the container, relay both ways, end as `ending.py` decides.

States: dialing (the client waits, unread, its bytes in the kernel), relaying, over. The connection owns both sockets
from its construction on and closes them once, through the poller; a relay only borrows them. Its owner, the listener,
hears of the end by `Owner.connection_over`.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import struct
from typing import Protocol

from pyproxy import ending
from pyproxy.poller import BOTH_EDGES, READABLE, WRITABLE, Poller
from pyproxy.stream import NOTHING, SINK, SOURCE

# struct linger {on, seconds 0}: close sends a reset and forgets what was not sent (socket(7); in SCTP, an ABORT).
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

# How a connection came to its end.
COMPLETE, FAILED, RESET, TIMED_OUT = range(4)


class Relay(Protocol):
    """One direction: `stream.StreamRelay` or `messages.MessageRelay`."""

    waits: int
    moved: int

    def pump(self, exhaustive: bool) -> int: ...

    def release(self) -> None: ...


class Owner(Protocol):
    """What a connection needs of the listener that accepted it."""

    poller: Poller
    half_close: bool

    def relay(self, source: _socket.socket, sink: _socket.socket) -> Relay: ...

    def dial_failed(self, connection: Connection, error: int) -> None: ...

    def connection_over(self, connection: Connection, how: int) -> None: ...


class Connection:
    """Both sockets are non-blocking; `backend` is new and not yet connected. `dial` starts it."""

    __slots__ = ("_backend", "_client", "_down", "_down_stands", "_owner", "_quiet", "_up", "_up_stands")

    def __init__(self, owner: Owner, client: _socket.socket, backend: _socket.socket) -> None:
        self._owner = owner
        self._client = client
        self._backend = backend
        self._up: Relay | None = None
        self._down: Relay | None = None
        self._up_stands = ending.OPEN
        self._down_stands = ending.OPEN
        self._quiet: tuple[int, float] | None = None  # bytes moved, and since when it has been that many

    @property
    def moved_up(self) -> int:
        return self._up.moved if self._up is not None else 0

    @property
    def moved_down(self) -> int:
        return self._down.moved if self._down is not None else 0

    @property
    def dialing(self) -> bool:
        return self._up is None

    @property
    def half_closed(self) -> bool:
        return self._up_stands == ending.ENDED or self._down_stands == ending.ENDED

    def dial(self, address: tuple[str | int, ...]) -> None:
        """Connect to the container without waiting. Whatever comes of it, the owner hears."""
        try:
            error = self._backend.connect_ex(address)
            if error in (0, errno.EINPROGRESS):
                self._owner.poller.watch(self._backend.fileno(), BOTH_EDGES, self._on_dialed)
                return
        except OSError as exc:  # the poller has no memory for one more
            error = exc.errno or errno.ENOMEM
        self._fail(error)

    def quiet_s(self, now: float) -> float:
        """For how long nothing has moved, as far as calls of this method have seen."""
        moved = self.moved_up + self.moved_down
        if self._quiet is None or self._quiet[0] != moved:
            self._quiet = (moved, now)
        return now - self._quiet[1]

    def time_out(self) -> None:
        """End it: one of our own limits has been reached. Neither side may take it for complete."""
        if self.dialing:
            self._fail(errno.ETIMEDOUT)
        else:
            self._reset(TIMED_OUT)

    def prepare_stop(self) -> None:
        """The process is about to exit and the kernel to close both sockets: have it reset those owed more."""
        if ending.must_reset(self._down_stands):
            _reset_on_close(self._client)
        if ending.must_reset(self._up_stands):
            _reset_on_close(self._backend)

    def abort(self) -> None:
        """Stop now, as `prepare_stop` has it, in a process that goes on."""
        self.prepare_stop()
        self._over(RESET)

    def _on_dialed(self, events: int) -> None:
        error = self._backend.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if error:
            self._fail(error)
            return
        if not events & select.EPOLLOUT:
            return  # nothing has been decided: a stray event (Poller.close_socket)
        owner = self._owner
        self._up = owner.relay(self._client, self._backend)
        self._down = owner.relay(self._backend, self._client)
        poller = owner.poller
        poller.hand_over(self._backend.fileno(), self._on_backend)
        try:
            poller.watch(self._client.fileno(), BOTH_EDGES, self._on_client)
        except OSError as exc:
            self._fail(exc.errno or errno.ENOMEM)
            return
        if events & READABLE:
            # The backend spoke first, before or with the event that said it is connected.
            self._on_backend(events)

    def _on_client(self, events: int) -> None:
        up, down = self._up, self._down
        assert up is not None
        assert down is not None
        if down.waits == SINK and events & WRITABLE:
            self._pump_down(exhaustive=True)
        if up.waits == SOURCE:
            if events & READABLE:
                self._pump_up(bool(events & ~_PLAIN))
        elif events & select.EPOLLERR and self._up_stands == ending.ENDED:
            self._reset(RESET)

    def _on_backend(self, events: int) -> None:
        up, down = self._up, self._down
        assert up is not None
        assert down is not None
        if up.waits == SINK and events & WRITABLE:
            self._pump_up(exhaustive=True)
        if down.waits == SOURCE:
            if events & READABLE:
                self._pump_down(bool(events & ~_PLAIN))
        elif events & select.EPOLLERR and self._down_stands == ending.ENDED:
            self._reset(RESET)

    def _pump_up(self, exhaustive: bool = True) -> None:
        up = self._up
        if up is None or up.waits == NOTHING:
            return  # a turn that was asked for before the end
        outcome = up.pump(exhaustive)
        if outcome == ending.WAIT:
            return
        if outcome == ending.MORE:
            self._owner.poller.again(self._pump_up)
            return
        self._up_stands, action = ending.decide(outcome, self._down_stands)
        self._act(action, up, self._backend)

    def _pump_down(self, exhaustive: bool = True) -> None:
        down = self._down
        if down is None or down.waits == NOTHING:
            return
        outcome = down.pump(exhaustive)
        if outcome == ending.WAIT:
            return
        if outcome == ending.MORE:
            self._owner.poller.again(self._pump_down)
            return
        self._down_stands, action = ending.decide(outcome, self._up_stands)
        self._act(action, down, self._client)

    def _act(self, action: int, relay: Relay, sink: _socket.socket) -> None:
        if action == ending.CLOSE or (action == ending.SHUT_DOWN and not self._owner.half_close):
            self._over(COMPLETE)
        elif action == ending.RESET:
            self._reset(RESET)
        else:
            relay.release()
            if action == ending.SHUT_DOWN:
                try:
                    sink.shutdown(_socket.SHUT_WR)
                except OSError:
                    # ENOTCONN: the sink was reset in the meantime, so this end cannot be passed on.
                    self._reset(RESET)

    def _fail(self, error: int) -> None:
        self._owner.dial_failed(self, error)
        self._reset(FAILED)

    def _reset(self, how: int) -> None:
        _reset_on_close(self._client)
        _reset_on_close(self._backend)
        self._over(how)

    def _over(self, how: int) -> None:
        for relay in (self._up, self._down):
            if relay is not None:
                relay.release()
        owner = self._owner
        owner.connection_over(self, how)
        # After the count: closing may let a starved listener accept again.
        owner.poller.close_socket(self._client)
        owner.poller.close_socket(self._backend)


# Events that announce nothing but room and ordinary data.
_PLAIN = select.EPOLLIN | select.EPOLLOUT


def _reset_on_close(sock: _socket.socket) -> None:
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, _RESET_ON_CLOSE)


def words(error: int) -> str:
    """An errno in the kernel's words, as a sentence's middle has them."""
    return os.strerror(error).lower()
