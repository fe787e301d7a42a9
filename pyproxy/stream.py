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

from pyproxy.ending import END, MORE, SINK_FAILED, SOURCE_FAILED, WAIT
from pyproxy.pipes import CHUNK_BYTES, Pipes
from pyproxy.tune import bound_receive_buffer

# What a relay waits for.
SOURCE, SINK, TURN, NOTHING = range(4)

# One read while copying. 64 KiB is what a pipe holds by default and a receive buffer has ready at moderate rates.
COPY_BYTES = 1 << 16

# Reads that fill the buffer, in a row, before splice takes over: one alone is a large message, not yet bulk.
_FULL_READS = 2

# Wake-ups in a row that bring less than a copy would have, before splice hands back to copying.
_THIN_WAKE_UPS = 4

# Reads while copying, and bytes while splicing, in one turn before other connections get theirs. With 16 MiB bulk takes
# a twentieth less CPU, at the same rate, and an exchange beside it has p99 0.71 times docker-proxy's instead of 0.50
# (bench/NOTES.md).
_TURN = 16
_TURN_BYTES = CHUNK_BYTES
# After a message, a read that leaves room in the buffer, the next turns of bulk are so many short ones: its answer may
# come any time, and would wait for the end of a long one, 0.3 ms. Where client and container have a processor each, an
# exchange beside a bulk stream in the same process then has a p50 of 145 us instead of 770 (docker-proxy's 115), and
# the stream 0.7 times docker-proxy's rate instead of 1.2; 64 KiB would make it 110 us and 0.5, more turns only cost
# (bench/NOTES.md).
_SHORT_TURN_BYTES = 1 << 17
_SHORT_TURNS = 4

_SPLICE: Final = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE

# Shared by every relay of the process: it is empty whenever a relay is not running, and only one runs at a time.
_BUFFER = memoryview(bytearray(COPY_BYTES))


class StreamRelay:
    """Moves bytes from `source` to `sink` whenever `pump` is called; says by `waits` when to call it again."""

    __slots__ = ("_failed", "_held", "_pipe", "_piped", "_pipes", "_sink", "_source", "_streak", "moved", "waits")

    def __init__(self, source: _socket.socket, sink: _socket.socket, pipes: Pipes) -> None:
        self._source = source
        self._sink = sink
        self._pipes = pipes
        self._held: memoryview | None = None  # read, but not yet taken by the sink
        self._pipe: tuple[int, int] | None = None
        self._piped = 0  # bytes in the pipe
        self._failed = False  # the source, while the pipe still held bytes
        self._streak = 0  # copying: full reads in a row; splicing: thin wake-ups in a row
        self.waits = SOURCE
        self.moved = 0  # bytes that the sink has taken

    @property
    def is_bulk(self) -> bool:
        """Whether what came last was bulk."""
        return self._pipe is not None

    def pump(self, exhaustive: bool) -> int:
        """Move what can be moved; return what happened (`ending`: WAIT, MORE, END, SOURCE_FAILED, SINK_FAILED).

        Unless `exhaustive`, a read that leaves room in the buffer is taken for the last one (epoll(7), question 9):
        not so when the end of the stream or urgent data has been announced, or when an edge may have been missed.
        """
        if self._held is not None:
            outcome = self._send_held()
            if outcome != MORE:
                return outcome
        if self._pipe is not None:
            return self._splice(exhaustive)
        for _ in range(_TURN):
            try:
                size = self._source.recv_into(_BUFFER)
            except BlockingIOError:
                self.waits = SOURCE
                return WAIT
            except OSError:
                return self._over(SOURCE_FAILED)
            if not size:
                return self._over(END)
            try:
                sent = self._sink.send(_BUFFER[:size])
            except BlockingIOError:
                sent = 0
            except OSError:
                return self._over(SINK_FAILED)
            self.moved += sent
            if sent < size:
                self._held = memoryview(bytes(_BUFFER[sent:size]))
                self.waits = SINK
                return WAIT
            if size == COPY_BYTES:
                self._streak += 1
                if self._streak >= _FULL_READS and (pipe := self._pipes.borrow()) is not None:
                    self._pipe = pipe
                    self._pipes.sinks.add(self._sink)
                    self._streak = 0
                    bound_receive_buffer(self._source)
                    return self._splice(exhaustive)
                continue
            self._streak = 0
            # From where bulk goes it is the bulk's own answer, mostly, which waits for nobody.
            if self._source not in self._pipes.sinks:
                self._pipes.short_turns = _SHORT_TURNS
            if not exhaustive:
                self.waits = SOURCE
                return WAIT
        self.waits = TURN
        return MORE

    def release(self) -> None:
        """Give the pipe back, when the direction is over, however it ended. May be called again."""
        self.waits = NOTHING
        self._held = None
        if self._pipe is not None:
            self._pipes.give_back(self._pipe, empty=not self._piped)
            self._pipes.sinks.discard(self._sink)
            self._pipe = None

    def let_go(self) -> None:
        """As `release`, in one of two processes that both have this relay: the other goes on with it."""
        self.waits = NOTHING
        if self._pipe is not None:
            self._pipes.let_go(self._pipe)
            self._pipes.sinks.discard(self._sink)
            self._pipe = None

    def _send_held(self) -> int:
        assert self._held is not None
        try:
            sent = self._sink.send(self._held)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.waits = NOTHING
            return SINK_FAILED
        self.moved += sent
        if sent < len(self._held):
            self._held = self._held[sent:]
            self.waits = SINK
            return WAIT
        self._held = None
        return MORE

    def _over(self, outcome: int) -> int:
        self.waits = NOTHING
        return outcome

    def _splice(self, exhaustive: bool) -> int:
        assert self._pipe is not None
        from_pipe, into_pipe = self._pipe
        source, sink = self._source.fileno(), self._sink.fileno()
        before = self.moved
        most = _TURN_BYTES
        if self._pipes.short_turns:
            self._pipes.short_turns -= 1
            most = _SHORT_TURN_BYTES
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
                    self.waits = SINK
                    return WAIT
                except OSError:
                    return self._over(SINK_FAILED)
                self._piped -= size
                self.moved += size
            if self._piped:
                continue
            more = drained and exhaustive and self._has_more()
            if self._failed:
                return self._over(SOURCE_FAILED)
            # splice reads up to a mark of urgent data and no further, and there says "nothing", or "end" once the
            # stream has ended somewhere behind it (net/ipv4/tcp.c, tcp_read_sock). Only recv knows the end.
            if stopped or more:
                self._stop_splicing()
                return self.pump(True)
            if drained:
                self._consider_copying(self.moved - before)
                self.waits = SOURCE
                return WAIT
        if most < _TURN_BYTES:
            self._pipes.cut_short += 1
        self._streak = 0
        self.waits = TURN
        return MORE

    def _has_more(self) -> bool:
        """Whether recv would find something where splice found nothing."""
        try:
            self._source.recv(1, _socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            # A reset that came between the two calls. It is told once: to the next read it would look like the end.
            self._failed = True
            return False
        return True

    def _stop_splicing(self) -> None:
        assert self._pipe is not None
        self._pipes.give_back(self._pipe, empty=True)
        self._pipes.sinks.discard(self._sink)
        self._pipe = None
        self._streak = 0

    def _consider_copying(self, moved: int) -> None:
        """After a wake-up in which splice moved this many bytes and left the pipe empty."""
        self._streak = self._streak + 1 if moved < COPY_BYTES else 0
        if self._streak >= _THIN_WAKE_UPS:
            self._stop_splicing()
