"""Datagrams by the batch: sendmmsg(2) and recvmmsg(2) through ctypes, for the load programs."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Sequence

from pyproxy.core.gso import MAX_BYTES
from pyproxy.relay.syscalls import Iovec, Mmsghdr
from pyproxy.sockopts import IP_PKTINFO, UDP_SEGMENT

# Each datagram begins with this; the counter checks it.
STAMP = b"pyproxy!"

_BATCH = 64
_SLOT = 64  # the counter looks at the beginning only; MSG_TRUNC tells the whole size
_MSG_TRUNC = 0x20
_MSG_DONTWAIT = 0x40
_SO_RCVBUFFORCE = 33

# A receiver must not be what loses datagrams: room for many bursts.
_BUFFER_BYTES = 16 << 20


_libc = ctypes.CDLL(None, use_errno=True)


def payload(size: int) -> bytes:
    """What a datagram of this size carries."""
    return (STAMP * (size // len(STAMP) + 1))[:size]


def enlarge_receive_buffer(sock: socket.socket) -> socket.socket:
    """Make room for what comes while the program does something else; root may have more than others."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    return sock


def _headers(
    buffer: ctypes.Array[ctypes.c_char], slot: int, length: int, count: int = _BATCH
) -> tuple[object, ctypes.Array[Mmsghdr]]:
    iovecs = (Iovec * count)()
    headers = (Mmsghdr * count)()
    for each in range(count):
        iovecs[each].base = ctypes.addressof(buffer) + slot * each
        iovecs[each].length = length
        headers[each].hdr.iov = ctypes.addressof(iovecs[each])
        headers[each].hdr.iovlen = 1
    return iovecs, headers


class Receiver:
    """Counts what has come to a socket. A whole batch is compared at once: counting must not be what is measured."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = ctypes.create_string_buffer(_BATCH * _SLOT)
        self._iovecs, self._headers = _headers(self._buffer, _SLOT, _SLOT)
        self._arrived = memoryview(self._buffer).cast("B")
        words = ctypes.sizeof(Mmsghdr) // 4
        at = Mmsghdr.length.offset // 4
        self._lengths = memoryview(self._headers).cast("B").cast("I")[at::words]

    def count(self) -> tuple[int, int, int]:
        """Take one batch without waiting: datagrams, bytes, and how many did not begin with the stamp."""
        taken = _libc.recvmmsg(self._sock.fileno(), self._headers, _BATCH, _MSG_DONTWAIT | _MSG_TRUNC, None)
        if taken < 0:
            return 0, 0, 0
        lengths = self._lengths[:taken].tolist()
        shortest = min(lengths)
        seen = self._arrived[: taken * _SLOT]
        if shortest >= _SLOT and seen == _STAMPED[: taken * _SLOT]:
            return taken, sum(lengths), 0
        damaged = sum(seen[at : at + len(STAMP)] != STAMP for at in range(0, len(seen), _SLOT))
        return taken, sum(lengths), damaged


_STAMPED = payload(_BATCH * _SLOT)


class Sender:
    """Sends the same datagram of `size` bytes, many at a time: to `to`, or where the socket is connected to."""

    def __init__(self, sock: socket.socket, size: int, to: tuple[str, int] | None = None) -> None:
        self._sock = sock
        self._buffer = ctypes.create_string_buffer(payload(size), size)
        self._iovecs, self._headers = _headers(self._buffer, 0, size)
        if to is not None:
            packed = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", to[1], socket.inet_aton(to[0]))
            self._name = ctypes.create_string_buffer(packed, len(packed))
            for header in self._headers:
                header.hdr.name = ctypes.addressof(self._name)
                header.hdr.namelen = len(packed)

    def send(self, count: int) -> int:
        """Send up to a batch; return how many the kernel took."""
        taken = _libc.sendmmsg(self._sock.fileno(), self._headers, min(count, _BATCH), 0)
        if taken < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return int(taken)


# Datagrams of so many flows in one call.
_FLOWS_AT_ONCE = 20


class FlowsSender:
    """The same datagram from each of `sources` in turn, a flow each, to where the socket is connected."""

    def __init__(self, sock: socket.socket, size: int, sources: Sequence[str]) -> None:
        self._sock = sock
        self._count = len(sources)
        self._next = 0
        self._buffer = ctypes.create_string_buffer(payload(size), size)
        self._iovecs, self._headers = _headers(self._buffer, 0, size, self._count)
        # The source of each by struct in_pktinfo (ip(7)): a socket and a call for each are slower than some proxies.
        ancillary = b"".join(
            struct.pack("@Nii", socket.CMSG_LEN(12), socket.IPPROTO_IP, IP_PKTINFO)
            + struct.pack("=i4s4x", 0, socket.inet_aton(source)).ljust(
                socket.CMSG_SPACE(12) - socket.CMSG_LEN(0), b"\0"
            )
            for source in sources
        )
        self._ancillary = ctypes.create_string_buffer(ancillary, len(ancillary))
        for each, header in enumerate(self._headers):
            header.hdr.control = ctypes.addressof(self._ancillary) + each * socket.CMSG_SPACE(12)
            header.hdr.controllen = socket.CMSG_SPACE(12)

    def send(self) -> int:
        """Send some; return how many the kernel took."""
        at = ctypes.addressof(self._headers) + self._next * ctypes.sizeof(Mmsghdr)
        wanted = min(_FLOWS_AT_ONCE, self._count - self._next)
        taken = _libc.sendmmsg(self._sock.fileno(), ctypes.c_void_p(at), wanted, 0)
        if taken < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self._next = (self._next + taken) % self._count
        return int(taken)


class SegmentingSender:
    """As QUIC's senders do: one call with many datagrams' bytes, which the kernel cuts into them."""

    def __init__(self, sock: socket.socket, size: int) -> None:
        self._sock = sock
        self._data = payload(size) * min(MAX_BYTES // size, _BATCH)
        self._size = size
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)

    def send(self) -> int:
        """Send a batch; return how many datagrams it was."""
        return self._sock.send(self._data) // self._size
