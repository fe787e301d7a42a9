"""What the parts of the data path ask of one another. A connection knows its listener and its directions by these."""

from __future__ import annotations

import _socket
from typing import TYPE_CHECKING, Protocol

from pyproxy.relay.poller import Poller

if TYPE_CHECKING:
    from pyproxy.relay.connection import Connection


class Relay(Protocol):
    """One direction: `stream.StreamRelay` or `messages.MessageRelay`. Owns no socket."""

    moved: int  # bytes that the sink has taken

    @property
    def is_bulk(self) -> bool:
        """Whether what came last was bulk."""

    def pump(self, exhaustive: bool) -> int:
        """Move what can be moved; return what is wanted next, or how it has ended (`core.ending`)."""

    def release(self) -> None:
        """It is over, however it ended: give back what was borrowed. May be called again."""

    def detach(self) -> None:
        """As `release`, in one of two processes that both have this relay: the other goes on with it."""


class ListenerHooks(Protocol):
    """What a connection needs of the listener that accepted it."""

    poller: Poller
    half_close: bool
    backend_port: int

    def relay(self, source: _socket.socket, sink: _socket.socket) -> Relay:
        """Make one direction."""

    def attach_relay(self, relay: Relay) -> None:
        """Go on with one that was made in another process, of which this is a copy."""

    def established(self, sock: _socket.socket) -> bool:
        """Whether a dialed socket is known to be connected by now."""

    def dial_failed(self, error: int) -> None:
        """The container was not reached, for this reason (errno): the client is being reset."""

    def connection_closed(self, connection: Connection, how: int) -> None:
        """It is over, and how (`connection.COMPLETE`, ...); its sockets are closed next."""
