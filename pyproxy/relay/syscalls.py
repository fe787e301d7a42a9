"""System calls that the standard library lacks: the one module that uses ctypes.

Errors are OSErrors with the kernel's number, as those of `os` and `socket` are.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket

# The same number on every architecture but Alpha (include/uapi/asm-generic/unistd.h).
_SYS_PIDFD_GETFD = 438

_LIBC = ctypes.CDLL(None, use_errno=True)

WORD_BYTES = ctypes.sizeof(ctypes.c_size_t)


class Iovec(ctypes.Structure):
    """struct iovec (readv(2))."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Msghdr(ctypes.Structure):
    """struct msghdr (recvmsg(2))."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class Mmsghdr(ctypes.Structure):
    """struct mmsghdr (recvmmsg(2))."""

    _fields_ = (("hdr", Msghdr), ("length", ctypes.c_uint32))


class Messages:
    """`count` messages for recvmmsg(2), laid out once. Each has a slot of `arena` for its data, `slot_bytes` long and
    `stride` after the one before, and one of `records`: `name_bytes` for its sender's address, then `control_bytes` for
    its ancillary data.

    `lengths`: bytes of each message that was received; `control_lengths`: those of its ancillary data.
    """

    def __init__(
        self, arena: mmap.mmap, count: int, *, slot_bytes: int, stride: int, name_bytes: int, control_bytes: int
    ) -> None:
        self._count = count
        self._iovecs = (Iovec * count)()
        self._headers = (Mmsghdr * count)()
        self._records = ctypes.create_string_buffer(count * (name_bytes + control_bytes))
        # The memory outlives every view of it: it is the process's.
        base, records = ctypes.addressof(ctypes.c_char.from_buffer(arena)), ctypes.addressof(self._records)
        for each, header in enumerate(self._headers):
            self._iovecs[each].base = base + stride * each
            self._iovecs[each].length = slot_bytes
            record = records + (name_bytes + control_bytes) * each
            header.hdr.name, header.hdr.namelen = record, name_bytes
            header.hdr.control, header.hdr.controllen = record + name_bytes, control_bytes
            header.hdr.iov, header.hdr.iovlen = ctypes.addressof(self._iovecs) + ctypes.sizeof(Iovec) * each, 1
        self._raw = raw = memoryview(self._headers).cast("B")
        self._fresh = bytes(raw)
        self._used = 0
        self._recvmmsg = _LIBC.recvmmsg
        size = ctypes.sizeof(Mmsghdr)
        self.lengths = raw.cast("I")[Mmsghdr.length.offset // 4 :: size // 4]
        at = (Mmsghdr.hdr.offset + Msghdr.controllen.offset) // WORD_BYTES
        self.control_lengths = raw.cast("Q" if WORD_BYTES == 8 else "I")[at :: size // WORD_BYTES]
        self.records = memoryview(self._records).cast("B")

    def receive(self, fd: int) -> int:
        """Take what waits at a socket, up to `count` messages, without waiting; return how many.

        BlockingIOError: nothing waits. Other OSErrors as recvmsg(2) has them.
        """
        if self._used:
            # The kernel has written lengths over the sizes of the buffers.
            end = self._used * ctypes.sizeof(Mmsghdr)
            self._raw[:end] = self._fresh[:end]
        count: int = self._recvmmsg(fd, self._headers, self._count, socket.MSG_DONTWAIT, None)
        if count < 0:
            self._used = 0
            raise _last_error()
        self._used = count
        return count


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """Return a duplicate of descriptor `fd` of another process, close-on-exec, for the caller to close
    (pidfd_getfd(2)).
    """
    taken = int(_LIBC.syscall(_SYS_PIDFD_GETFD, pidfd, fd, 0))
    if taken < 0:
        raise _last_error()
    return taken


def _last_error() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))  # of the class that is this number's, such as BlockingIOError
