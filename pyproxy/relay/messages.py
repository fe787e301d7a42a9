"""One direction of an SCTP association: whole messages from a source socket to a sink socket.

The counterpart of `stream.py`, with the same `pump`, for one-to-one style sockets (RFC 6458 section 4). A message is
sent on when its end has been seen, with its stream, payload identifier and ordering. At most one message is held while
the sink does not take it.
"""

from __future__ import annotations

import _socket
import socket
from typing import Final

from pyproxy.core.cmsg import SCTP_INFO_SPACE, Ancillary, sctp_onward
from pyproxy.core.ending import END, READ, SINK_FAILED, SOURCE_FAILED, WRITE, YIELD

# What one message may grow to while its end is awaited: several times what Linux lets be sent in one piece under its
# default socket buffers (SO_SNDBUF, 212,992 bytes).
_LONGEST_MESSAGE = 1 << 20

# Of one step: go on; no report (`ending`) is negative.
_GO_ON: Final = -1

_READ_BYTES = 1 << 16
_TURN = 64
_BUFFER = bytearray(_READ_BYTES)


class MessageRelay:
    """Moves messages from `source` to `sink` whenever `pump` is called, which says when to call it again."""

    __slots__ = ("_held", "_partial", "_sink", "_source", "moved")

    is_bulk: Final = False  # it goes message by message

    def __init__(self, source: _socket.socket, sink: _socket.socket) -> None:
        self._source = source
        self._sink = sink
        self._partial: tuple[bytearray, Ancillary] | None = None  # the start of a message whose end is to come
        self._held: tuple[bytes, Ancillary] | None = None  # whole, but not yet taken by the sink
        self.moved = 0  # bytes that the sink has taken

    def pump(self, exhaustive: bool = True) -> int:
        """As `stream.StreamRelay.pump`; always reads until there is no more."""
        for _ in range(_TURN):
            if self._held is not None:
                outcome = self._send_held()
                if outcome != _GO_ON:
                    return outcome
            outcome = self._receive()
            if outcome != _GO_ON:
                return outcome
        return YIELD

    def release(self) -> None:
        self._held = self._partial = None

    detach = release

    def _receive(self) -> int:
        try:
            size, ancillary, flags, _ = self._source.recvmsg_into([_BUFFER], SCTP_INFO_SPACE)
        except BlockingIOError:
            return READ
        except OSError:
            return SOURCE_FAILED
        if not size:
            # An association that ends inside a message has not delivered that message.
            return END if self._partial is None else SOURCE_FAILED
        if self._partial is None:
            self._partial = (bytearray(), sctp_onward(ancillary))
        message, onward = self._partial
        message += memoryview(_BUFFER)[:size]
        if len(message) > _LONGEST_MESSAGE:
            return SOURCE_FAILED
        if flags & socket.MSG_EOR:
            self._held = (bytes(message), onward)
            self._partial = None
        return _GO_ON

    def _send_held(self) -> int:
        assert self._held is not None
        message, onward = self._held
        try:
            self._sink.sendmsg([message], onward)
        except BlockingIOError:
            return WRITE
        except OSError:
            return SINK_FAILED
        self.moved += len(message)
        self._held = None
        return _GO_ON
