"""Datagrams by the batch: sendmmsg(2) and recvmmsg(2) through ctypes, for the load programs."""

from __future__ import annotations

import ctypes
import os
import socket

# Each datagram begins with this; the counter checks it.
STAMP = b"pyproxy!"

_BATCH = 64
_SLOT = 64  # the counter looks at the beginning only; MSG_TRUNC tells the whole size
_MSG_TRUNC = 0x20
_MSG_DONTWAIT = 0x40


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.POINTER(_Iovec)),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Mmsghdr(ctypes.Structure):
    _fields_ = (("hdr", _Msghdr), ("length", ctypes.c_uint32))


_libc = ctypes.CDLL(None, use_errno=True)


def _headers(buffer: ctypes.Array[ctypes.c_char], slot: int, length: int) -> tuple[object, ctypes.Array[_Mmsghdr]]:
    iovecs = (_Iovec * _BATCH)()
    headers = (_Mmsghdr * _BATCH)()
    for each in range(_BATCH):
        iovecs[each].base = ctypes.addressof(buffer) + slot * each
        iovecs[each].length = length
        headers[each].hdr.iov = ctypes.pointer(iovecs[each])
        headers[each].hdr.iovlen = 1
    return iovecs, headers


class Receiver:
    """Counts what has come to a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = ctypes.create_string_buffer(_BATCH * _SLOT)
        self._iovecs, self._headers = _headers(self._buffer, _SLOT, _SLOT)

    def count(self) -> tuple[int, int, int]:
        """Take one batch without waiting: datagrams, bytes, and how many did not begin with the stamp."""
        taken = _libc.recvmmsg(self._sock.fileno(), self._headers, _BATCH, _MSG_DONTWAIT | _MSG_TRUNC, None)
        if taken < 0:
            return 0, 0, 0
        size = sum(self._headers[each].length for each in range(taken))
        raw = self._buffer.raw
        damaged = sum(not raw.startswith(STAMP, each * _SLOT) for each in range(taken))
        return taken, size, damaged


class Sender:
    """Sends the same datagram of `size` bytes, many at a time, on a connected socket."""

    def __init__(self, sock: socket.socket, size: int) -> None:
        self._sock = sock
        self._buffer = ctypes.create_string_buffer((STAMP * (size // len(STAMP) + 1))[:size], size)
        self._iovecs, self._headers = _headers(self._buffer, 0, size)

    def send(self, count: int) -> int:
        """Send up to a batch; return how many the kernel took."""
        taken = _libc.sendmmsg(self._sock.fileno(), self._headers, min(count, _BATCH), 0)
        if taken < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return int(taken)
