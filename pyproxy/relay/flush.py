"""The last bytes of a side that has been reset: the other side gets them all before it is reset too.

What our kernel has acknowledged to a sender belongs to the receiver, whatever the sender does next: on a direct
connection a receive queue outlives the reset that follows it. Closing a socket with a reset forgets its send queue, so
that has to be empty first: acknowledged by the far kernel. Meanwhile whatever the far end still sends is discarded: the
side that it was meant for is gone, and a far end that blocks in a write would never read.
Owns no socket: the connection closes them, when this has called it.
"""

from __future__ import annotations

import _socket
import asyncio
import fcntl
import select
import sys
from collections.abc import Callable

from pyproxy.relay.poller import BOTH_EDGES, READABLE, WRITABLE, Poller
from pyproxy.sockopts import signal_when_all_sent

_SIOCOUTQ = 0x5411  # include/uapi/linux/sockios.h, where it is TIOCOUTQ

# How long the last bytes of a side that was reset wait for the other side to take them, while nothing moves. On a
# direct connection they would wait in the reader's own kernel, without limit; here they hold memory and descriptors.
# Linux itself gives up on a reader that takes nothing, once nobody owns the sending socket any more (which would be the
# case behind docker-proxy), when its probes are two minutes apart (net/ipv4/tcp_timer.c, tcp_probe_timer, TCP_RTO_MAX).
# -half-closed-timeout and -idle-timeout can make it shorter.
DRAIN_S = 120.0

# There is an event for "all has been sent" and none for "all has been acknowledged": in between lies a round trip, or
# a retransmission. So we look again after this time, then after twice as long each time, up to the second value. A
# guess.
_LOOK_S = (0.001, 0.25)

# Reads in one turn before other connections get theirs.
_TURN = 16

_BUFFER = bytearray(1 << 16)


class Flush:
    """Calls `done` once, when the peer of `sock` has acknowledged all, or has reset; until then, or `cancel`, watches
    `sock`, which nobody else may be watching. OSError: no memory for that.
    """

    __slots__ = ("_done", "_look_s", "_poller", "_sock", "_timer")

    def __init__(self, poller: Poller, sock: _socket.socket, done: Callable[[], None]) -> None:
        self._poller = poller
        self._sock = sock
        self._done: Callable[[], None] | None = done
        self._timer: asyncio.TimerHandle | None = None
        self._look_s = _LOOK_S[0]
        signal_when_all_sent(sock)
        poller.watch(sock.fileno(), BOTH_EDGES, self._on_events)

    def cancel(self) -> None:
        """Never call `done`. May be called again."""
        self._done = None
        if self._timer is not None:
            self._timer.cancel()

    def _on_events(self, events: int) -> None:
        if events & select.EPOLLERR:
            self._finish()
        if events & READABLE:
            self._discard()
        if events & WRITABLE:
            self._look()

    def _look(self) -> None:
        """All has been sent. Has it been acknowledged?"""
        if self._done is None or self._timer is not None:
            return
        if not unacknowledged_bytes(self._sock):
            self._finish()
            return
        self._timer = self._poller.loop.call_later(self._look_s, self._look_again)
        self._look_s = min(2 * self._look_s, _LOOK_S[1])

    def _look_again(self) -> None:
        self._timer = None
        self._look()

    def _discard(self) -> None:
        if self._done is not None and discard(self._sock):
            self._poller.call_soon(self._discard)

    def _finish(self) -> None:
        done = self._done
        self.cancel()
        if done is not None:
            done()


class Progress:
    """Calls `stalled` once, when `measure` has said the same for `DRAIN_S`; never after `cancel`."""

    __slots__ = ("_loop", "_measure", "_seen", "_stalled", "_timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, measure: Callable[[], int], stalled: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._measure = measure
        self._stalled = stalled
        self._look()

    def cancel(self) -> None:
        """May be called again."""
        self._timer.cancel()

    def _look(self) -> None:
        self._seen = self._measure()
        self._timer = self._loop.call_later(DRAIN_S, self._look_again)

    def _look_again(self) -> None:
        if self._measure() == self._seen:
            self._stalled()
        else:
            self._look()


def discard(sock: _socket.socket) -> bool:
    """Read and forget what has come; whether there may be more. Its end, or a reset, is the poller's to tell."""
    try:
        for _ in range(_TURN):
            if not sock.recv_into(_BUFFER):
                return False
    except OSError:  # nothing more for now; or a reset, of which there is an event
        return False
    return True


def unacknowledged_bytes(sock: _socket.socket) -> int:
    """How many bytes sent on `sock`, its end (FIN) included, the far kernel has not acknowledged yet (tcp(7),
    SIOCOUTQ). 0 for SCTP, which cannot say (net/sctp/socket.c, sctp_ioctl), and for a socket that is closed.
    """
    try:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), _SIOCOUTQ, bytes(4)), sys.byteorder)
    except (OSError, ValueError):
        return 0
