"""Bulk TCP, at both ends: sends all that goes on many connections, takes in all that comes, counts what came.

One thread and one epoll at each end, as iperf3 has, with large buffers and nothing else to do: what the ends cost is
paid with every peer alike, and pulls ratios towards 1.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time

# What a client says first: who sends on this connection; and then a byte that tells the streams of several proxies
# apart, their key.
UP = b"u"
DOWN = b"d"

# What the server answers, so that the client knows when the whole way is open.
OPEN = b"o"

# As much per call as makes the call itself cheap, and still stays in a processor's own cache.
_CHUNK_BYTES = 1 << 18


class Pump:
    """The connections of one end, which it owns. Those that send do so from `go` to `pause`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._streams: dict[int, socket.socket] = {}
        self._senders: dict[bytes, set[int]] = {}  # by key
        self._receivers: dict[bytes, set[int]] = {}
        self._going: set[int] = set()
        self._data = bytes(_CHUNK_BYTES)
        self._buffer = bytearray(_CHUNK_BYTES)
        self._received = 0
        self.lost = 0  # streams that the other end, or what is between, has ended

    def watch(self, fd: int) -> None:
        """Have `turn` tell when this, which is no stream, is readable."""
        self._epoll.register(fd, select.EPOLLIN)

    def forget(self, fd: int) -> None:
        """The contrary."""
        self._epoll.unregister(fd)

    def send_on(self, stream: socket.socket, key: bytes) -> None:
        self._add(stream, 0)
        self._senders.setdefault(key, set()).add(stream.fileno())

    def receive_on(self, stream: socket.socket, key: bytes) -> None:
        self._add(stream, select.EPOLLIN)
        self._receivers.setdefault(key, set()).add(stream.fileno())

    def go(self, key: bytes) -> None:
        """Have the streams of this key send."""
        self.pause()
        for fd in self._senders.get(key, ()):
            if fd in self._streams:
                self._epoll.modify(fd, select.EPOLLOUT)
                self._going.add(fd)

    def pause(self) -> None:
        """Have no stream send. What has been sent may still be on its way."""
        for fd in self._going:
            if fd in self._streams:
                self._epoll.modify(fd, 0)
        self._going.clear()

    def turn(self) -> list[int]:
        """Wait, move what can be moved; which of the watched are readable."""
        watched = []
        for fd, events in self._epoll.poll():
            stream = self._streams.get(fd)
            if stream is None:
                watched.append(fd)
                continue
            try:
                if events & select.EPOLLOUT:
                    stream.send(self._data)
                    continue
                came = stream.recv_into(self._buffer)
            except BlockingIOError:
                continue
            except ConnectionError:
                came = 0
            if came:
                self._received += came
            else:
                del self._streams[fd]
                for some in (*self._senders.values(), *self._receivers.values(), self._going):
                    some.discard(fd)  # the number may be another stream's soon
                stream.close()
                self.lost += 1
        return watched

    def count(self) -> dict[str, float]:
        """Bytes that have come since the beginning, and when that was true."""
        return {"amount": self._received, "at": time.perf_counter()}

    def end(self, key: bytes) -> None:
        """Reset those of this key, so that nothing of it is still on its way when something else is measured."""
        for fd in self._senders.pop(key, set()) | self._receivers.pop(key, set()):
            if (stream := self._streams.pop(fd, None)) is not None:
                self._going.discard(fd)
                with contextlib.suppress(OSError):  # it may have been reset already
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                stream.close()

    def _add(self, stream: socket.socket, events: int) -> None:
        stream.setblocking(False)
        self._streams[stream.fileno()] = stream
        self._epoll.register(stream, events)
