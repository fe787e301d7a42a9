"""One direction of a TCP connection: bytes from a source socket to a sink socket.

Copies at first (`recv` into a shared buffer, `send`): two system calls and no descriptors. When reads keep filling
the buffer the traffic is bulk, and the bytes then go through a pipe by splice(2) and never enter this process. At
most one buffer or one pipe's content is held while the sink does not take it; nothing is read meanwhile, so the
source feels the back-pressure through TCP. Owns no socket; owns the pipe it borrowed, until `release`.
"""

from __future__ import annotations

import _socket
import os
from typing import Final

from pyproxy.core.ending import END, READ, SINK_FAILED, SOURCE_FAILED, WRITE, YIELD
from pyproxy.core.fairness import Fairness
from pyproxy.relay.pipes import Pipes
from pyproxy.sockopts import bound_receive_buffer

# One read while copying. 64 KiB is what a pipe holds by default and a receive buffer has ready at moderate rates.
COPY_BYTES = 1 << 16

# Reads that fill the buffer, in a row, before splice takes over: one alone is a large message, not yet bulk.
_FULL_READS = 2

# Wake-ups in a row that bring less than a copy would have, before splice hands back to copying.
_THIN_WAKE_UPS = 4

# Reads while copying, in one turn before other connections get theirs.
_TURN = 16

# Of one step of a relay: go on, perhaps in the other manner; no report (`ending`) is negative.
_GO_ON: Final = -1

_SPLICE: Final = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE

# Shared by every relay of the process: it is empty whenever a relay is not running, and only one runs at a time.
_BUFFER = memoryview(bytearray(COPY_BYTES))


class Shared:
    """What all streams of one process share. `close` closes the pipes that are not lent."""

    def __init__(self) -> None:
        self.pipes = Pipes()
        self.fairness = Fairness()

    def close(self) -> None:
        self.pipes.close()


class StreamRelay:
    """Moves bytes from `source` to `sink` whenever `pump` is called, which says when to call it again."""

    __slots__ = ("_failed", "_held", "_pipe", "_piped", "_shared", "_sink", "_source", "_streak", "moved")

    def __init__(self, source: _socket.socket, sink: _socket.socket, shared: Shared) -> None:
        self._source = source
        self._sink = sink
        self._shared = shared
        self._held: memoryview | None = None  # read, but not yet taken by the sink
        self._pipe: tuple[int, int] | None = None
        self._piped = 0  # bytes in the pipe
        self._failed = False  # the source, while the pipe still held bytes
        self._streak = 0  # copying: full reads in a row; splicing: thin wake-ups in a row
        self.moved = 0  # bytes that the sink has taken

    @property
    def is_bulk(self) -> bool:
        """Whether what came last was bulk."""
        return self._pipe is not None

    def pump(self, exhaustive: bool) -> int:
        """Move what can be moved; return what is wanted next, or how it has ended (`ending`: READ, WRITE, YIELD, END,
        SOURCE_FAILED, SINK_FAILED).

        Unless `exhaustive`, a read that leaves room in the buffer is taken for the last one (epoll(7), question 9):
        not so when the end of the stream or urgent data has been announced, or when an edge may have been missed.
        """
        if self._held is not None and (outcome := self._send_held()) != _GO_ON:
            return outcome
        while True:
            outcome = self._copy(exhaustive) if self._pipe is None else self._splice(exhaustive)
            if outcome != _GO_ON:
                return outcome
            exhaustive = True  # splice may have left something, and the edge of it has passed

    def release(self) -> None:
        """Give the pipe back, when the direction is over, however it ended. May be called again."""
        self._held = None
        if self._pipe is not None:
            self._give_back(empty=not self._piped)

    def detach(self) -> None:
        """As `release`, in one of two processes that both have this relay: the other goes on with it."""
        if self._pipe is not None:
            self._shared.pipes.discard(self._pipe)
            self._shared.fairness.bulk_sinks.discard(self._sink)
            self._pipe = None

    def attach(self, shared: Shared) -> None:
        """In a copy of the process, which goes on with this relay: use what is shared there."""
        self._shared = shared
        if self._pipe is not None:
            shared.pipes.take_over()
            shared.fairness.bulk_sinks.add(self._sink)

    def _send_held(self) -> int:
        assert self._held is not None
        try:
            sent = self._sink.send(self._held)
        except BlockingIOError:
            sent = 0
        except OSError:
            return SINK_FAILED
        self.moved += sent
        if sent < len(self._held):
            self._held = self._held[sent:]
            return WRITE
        self._held = None
        return _GO_ON

    def _copy(self, exhaustive: bool) -> int:
        for _ in range(_TURN):
            try:
                size = self._source.recv_into(_BUFFER)
            except BlockingIOError:
                return READ
            except OSError:
                return SOURCE_FAILED
            if not size:
                return END
            try:
                sent = self._sink.send(_BUFFER[:size])
            except BlockingIOError:
                sent = 0
            except OSError:
                return SINK_FAILED
            self.moved += sent
            if sent < size:
                self._held = memoryview(bytes(_BUFFER[sent:size]))
                return WRITE
            if size == COPY_BYTES:
                self._streak += 1
                if self._streak >= _FULL_READS and self._borrow():
                    return _GO_ON
                continue
            self._streak = 0
            self._shared.fairness.message_read(self._source)
            if not exhaustive:
                return READ
        return YIELD

    def _borrow(self) -> bool:
        """Get a pipe, and splice from now on; not so if there are no descriptors for one."""
        self._pipe = self._shared.pipes.borrow()
        if self._pipe is None:
            return False
        self._shared.fairness.bulk_sinks.add(self._sink)
        self._streak = 0
        bound_receive_buffer(self._source)
        return True

    def _give_back(self, *, empty: bool) -> None:
        assert self._pipe is not None
        self._shared.pipes.give_back(self._pipe, empty=empty)
        self._shared.fairness.bulk_sinks.discard(self._sink)
        self._pipe = None
        self._streak = 0

    def _splice(self, exhaustive: bool) -> int:
        assert self._pipe is not None
        from_pipe, into_pipe = self._pipe
        source, sink = self._source.fileno(), self._sink.fileno()
        before = self.moved
        most = self._shared.fairness.turn_bytes()
        while self.moved - before < most:
            was_empty = not self._piped
            drained = stopped = False
            if not self._failed:
                try:
                    size = os.splice(source, into_pipe, most, flags=_SPLICE)
                    stopped = not size
                    self._piped += size
                except BlockingIOError:
                    # Either the source has nothing or the pipe has no room: an empty pipe has room.
                    drained = was_empty
                except OSError:
                    self._failed = True
            if self._piped:
                try:
                    size = os.splice(from_pipe, sink, min(self._piped, most), flags=_SPLICE)
                except BlockingIOError:
                    return WRITE
                except OSError:
                    return SINK_FAILED
                self._piped -= size
                self.moved += size
            if self._piped:
                continue
            more = drained and exhaustive and self._has_more()
            if self._failed:
                return SOURCE_FAILED
            # splice reads up to a mark of urgent data and no further, and there says "nothing", or "end" once the
            # stream has ended somewhere behind it (net/ipv4/tcp.c, tcp_read_sock). Only recv knows the end.
            if stopped or more:
                self._give_back(empty=True)
                return _GO_ON
            if drained:
                self._consider_copying(self.moved - before)
                return READ
        self._shared.fairness.turn_used_up(most)
        self._streak = 0
        return YIELD

    def _has_more(self) -> bool:
        """Whether recv would find something where splice found nothing."""
        try:
            self._source.recv(1, _socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            # A reset came between the two calls. It is reported once: to the next read it would look like the end.
            self._failed = True
            return False
        return True

    def _consider_copying(self, moved: int) -> None:
        """After a wake-up in which splice moved this many bytes and left the pipe empty."""
        self._streak = self._streak + 1 if moved < COPY_BYTES else 0
        if self._streak >= _THIN_WAKE_UPS:
            self._give_back(empty=True)
