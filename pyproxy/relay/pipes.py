"""The pipes that splice moves bytes through: a few, shared by the connections that carry bulk traffic.

splice(2) needs a pipe between two sockets. Making one costs three system calls and two descriptors, so a relay
borrows one when its traffic turns out to be bulk and gives it back, empty, when it no longer is.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

# The most that one splice moves, and what a pipe can hold. The larger, the fewer acknowledgements and wake-ups for each
# byte: 1 stream came to 1.44 times docker-proxy's rate at 0.50 times its CPU with 1 MiB, to 1.22 at 0.56 with 256 KiB
# (bench/NOTES.md). It is the most that others than root may have (pipe(7), pipe-max-size).
CHUNK_BYTES = 1 << 20
# Without CAP_SYS_RESOURCE the later ones must do with less: beyond 64 MiB of a user's, which 64 such pipes are, new
# ones hold 8 KiB (pipe(7), pipe-user-pages-soft).
_LATER_BYTES = 1 << 18
_UNQUESTIONED = 32

# Kept for the next borrower. A guess: bulk transfers at the same time on one port are few; each pipe kept idle costs
# two descriptors and, being empty, no buffer memory.
_KEPT = 16


class Pipes:
    """A pool of empty pipes, each a (read, write) pair of descriptors. `close` closes those that are not lent."""

    def __init__(self, *, unlimited: bool | None = None) -> None:
        """`unlimited`: whether no limit of a user's applies to this process (default: as it finds)."""
        self._free: list[tuple[int, int]] = []
        self._lent = 0
        self._unlimited = unlimited

    def borrow(self) -> tuple[int, int] | None:
        """Return an empty, non-blocking pipe, or None when there are no descriptors for one: copying still works."""
        if self._free:
            self._lent += 1
            return self._free.pop()
        try:
            pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        self._lent += 1
        # EPERM: beyond this user's pipe-user-pages-soft (pipe(7)); the size it has will do.
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, self._size())
        return pipe

    def _size(self) -> int:
        if self._lent > _UNQUESTIONED:
            if self._unlimited is None:
                self._unlimited = _is_unlimited()
            if not self._unlimited:
                return _LATER_BYTES
        return CHUNK_BYTES

    def give_back(self, pipe: tuple[int, int], *, empty: bool) -> None:
        """Take a pipe back, or close it: bytes that it still holds belong to nobody else."""
        # A later, smaller one is no gain to whoever is alone with it.
        if empty and len(self._free) < _KEPT and fcntl.fcntl(pipe[1], fcntl.F_GETPIPE_SZ) >= CHUNK_BYTES:
            self._lent -= 1
            self._free.append(pipe)
            return
        self.discard(pipe)

    def take_over(self) -> None:
        """A pipe that was borrowed in another process, of which this is a copy, is given back here."""
        self._lent += 1

    def discard(self, pipe: tuple[int, int]) -> None:
        """Close our ends of a pipe: it is not empty, or another process has it too, and goes on with it."""
        self._lent -= 1
        os.close(pipe[0])
        os.close(pipe[1])

    def close(self) -> None:
        while self._free:
            for fd in self._free.pop():
                os.close(fd)


def _is_unlimited() -> bool:
    """Whether this process has CAP_SYS_RESOURCE (capability 24 of include/uapi/linux/capability.h), and has it of the
    machine's own user namespace, which is what counts (fs/pipe.c, pipe_is_unprivileged_user). OSError.
    """
    with open("/proc/self/status") as status, open("/proc/self/uid_map") as users:
        effective = next(line.split()[1] for line in status if line.startswith("CapEff:"))
        return bool(int(effective, 16) >> 24 & 1) and users.read().split() == ["0", "0", "4294967295"]
